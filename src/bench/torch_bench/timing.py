"""Times of a call, or of several equal ones that take turns."""

import time

import torch

from .common import settings

SAMPLE = 2e-3  # seconds of one sample on a GPU: long beside the time to start and to wait
MOST_CALLS = 4096  # of one CUDA graph


def seconds_of(function):
    """Wall time of a call on a GPU, which is waited for."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


class CpuTimer:
    """Calls one by one."""

    def __init__(self, calls):
        self.call = calls[0]

    def sample(self, seconds, warm_up):
        flush = settings["flush"]
        if warm_up:
            self.call()
        times, end = [], time.perf_counter() + seconds
        while not times or (time.perf_counter() < end and len(times) < 10_000):
            if flush is not None:
                flush.add_(1)
            start = time.perf_counter()
            self.call()
            times.append(time.perf_counter() - start)
        return times


class GpuTimer:
    """Many calls at once, as the other side times its own: as one CUDA graph where they can be captured, so
    that Python's time does not count; else started one after the other."""

    def __init__(self, calls):
        self.calls = calls
        for call in 3 * calls:
            call()
        turn = seconds_of(self.take_turns)
        turns = max(1, min(int(SAMPLE / turn) + 1, MOST_CALLS // len(calls)))
        self.captured = self.capture(turns)
        self.start = self.captured.replay if self.captured else lambda: [self.take_turns() for _ in range(turns)]
        self.count = turns * len(calls)

    def take_turns(self):
        for call in self.calls:
            call()

    def capture(self, turns):
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(turns):
                    self.take_turns()
            graph.replay()
            torch.cuda.synchronize()
            return graph
        except Exception:  # what cannot be captured says so in many ways
            torch.cuda.synchronize()
            return None

    def sample(self, seconds, warm_up):
        if warm_up:
            seconds_of(self.start)
        times, end = [], time.perf_counter() + seconds
        while not times or (time.perf_counter() < end and len(times) < 10_000):
            times.append(seconds_of(self.start) / self.count)
        return times


def timer(calls):
    return GpuTimer(calls) if settings["gpu"] else CpuTimer(calls)
