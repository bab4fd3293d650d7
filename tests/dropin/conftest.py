"""Marks of this folder."""


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than some seconds (compilers at work)")
