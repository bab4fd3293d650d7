"""PyG's GATv2Conv and this one under everything that torch, PyG and user code wrap around a layer.

A case is a function of a layer factory.  It runs once with PyG's class, which shows that the case
is right, and then with ours; values and gradients must agree.  Every run has a process of its own.

    python -m tests.dropin.run            # all cases, a line each
    python -m pytest tests/dropin         # the same as tests
    python -m tests.dropin.fuzz           # random arguments to the public doors
"""
