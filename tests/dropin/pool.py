"""Runs cases through the server and judges their results."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

import torch

from .harness import AUTO, CASES, PYG, Case, differences

_ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a case on a path."""

    status: str
    """``"passed"``, ``"failed"`` or ``"skipped"``."""
    text: str
    """Why it failed or was skipped."""
    seconds: float


class Pool:
    """Runs of cases, several at once, each in a process of its own."""

    def __init__(self, jobs: int = 2):
        self._folder = tempfile.TemporaryDirectory(prefix="gatv2-dropin-")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *_search_path()]),
            "OMP_NUM_THREADS": "2",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(pathlib.Path(self._folder.name, "inductor")),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env=environment,
        )
        self._lock = threading.Lock()
        self._waiting: dict[str, concurrent.futures.Future] = {}
        self._runs: dict[tuple[str, str], concurrent.futures.Future] = {}
        self._workers = concurrent.futures.ThreadPoolExecutor(jobs)
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def judge(self, case: Case, path: str) -> Verdict:
        """Runs a case on one of our paths and compares it with PyG's."""
        reason = case.missing()
        if reason is not None:
            return Verdict("skipped", reason, 0.0)
        ours = self.start(case.name, path).result()
        theirs = self.start(case.name, PYG).result() if case.both else None
        return verdict(case, path, ours, theirs)

    def start(self, name: str, variant: str) -> concurrent.futures.Future:
        """Begins a run, unless it has begun; runs beyond the number of jobs wait."""
        with self._lock:
            key = (name, variant)
            if key not in self._runs:
                self._runs[key] = self._workers.submit(self._run, name, variant)
            return self._runs[key]

    def close(self) -> None:
        """Ends the server."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._server.stdin.close()
        self._server.wait()
        self._reader.join()
        self._server.stdout.close()
        self._folder.cleanup()

    def _run(self, name: str, variant: str) -> dict:
        path = str(pathlib.Path(self._folder.name, f"{name.replace('/', '+')}@{variant}"))
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._waiting[path] = future
        request = {"case": name, "variant": variant, "path": path, "limit": CASES[name].limit}
        if not self._ready.wait(600) or future.done():
            raise RuntimeError("the server did not start")
        with self._lock:
            self._server.stdin.write((json.dumps(request) + "\n").encode())
            self._server.stdin.flush()
        answer = future.result()
        return _outcome(path, answer)

    def _read(self) -> None:
        for line in self._server.stdout:
            answer = json.loads(line)
            if "ready" in answer:
                self._ready.set()
            else:
                self._waiting.pop(answer["path"]).set_result(answer)
        for future in self._waiting.values():
            future.set_exception(RuntimeError("the server ended"))
        self._ready.set()


def _search_path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _outcome(path: str, answer: dict) -> dict:
    log = pathlib.Path(path + ".log")
    tail = "\n".join(log.read_text(errors="replace").splitlines()[:25]) if log.exists() else ""
    seconds = {"seconds": answer["seconds"]}
    code = answer["exit"]
    if code is None:
        return {
            "status": "error",
            "text": f"still running after {answer['seconds']:.0f} s",
        } | seconds
    if code < 0:
        name = signal.Signals(-code).name
        return {"status": "error", "text": f"crashed with {name}\n{tail}"} | seconds
    if not os.path.exists(path):
        return {"status": "error", "text": f"ended without a result ({code})\n{tail}"} | seconds
    return torch.load(path, weights_only=False) | seconds


def verdict(case: Case, path: str, ours: dict, theirs: dict | None) -> Verdict:
    """Compares our run with PyG's."""

    def conclude(status: str, text: str = "") -> Verdict:
        return Verdict(status, text, ours["seconds"])

    if theirs is not None:
        if theirs["status"] == "skipped":
            return conclude("skipped", theirs["text"])
        if theirs["status"] != "done":
            return conclude("failed", f"the case is not right, PyG's layer fails: {theirs['text']}")
    if ours["status"] == "skipped":
        return conclude("skipped", ours["text"])
    if ours["status"] != "done":
        return conclude("failed", _shortened(ours["text"]))
    found = [] if theirs is None else differences(theirs["value"], ours["value"], case.tolerance)
    if case.quiet and theirs is not None:
        new = [text for text in ours["warnings"] if text not in theirs["warnings"]]
        found += [f"warns where PyG's layer does not: {text}" for text in new]
    if case.fused and path == AUTO and not ours["fused"]:
        found.append("the fused kernels did not run")
    return conclude("failed", "\n".join(found[:12])) if found else conclude("passed")


def _shortened(text: str, lines: int = 30) -> str:
    parts = text.splitlines()
    return text if len(parts) <= lines else "\n".join([*parts[:4], "  ...", *parts[4 - lines :]])
