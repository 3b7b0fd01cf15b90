"""Times of steps that take turns, so that what else the machine does falls on all of them alike."""

import os
import statistics
import time
from collections.abc import Mapping

import torch

from benchmarks.cases import Step

TURN = 0.1  # seconds, or one step
FEWEST = 3  # turns, whatever they take


class Times:
    """Seconds of steps: on the clock, and of this process on all its cores, which other processes hardly
    touch."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def add(self, step: Step, on_gpu: bool) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def summary(self, tasks: int) -> dict[str, float]:
        """Milliseconds a task of steps of `tasks`: median, spread (10th and 90th percentile), least, CPU's
        median."""
        ms = sorted(1e3 * t / tasks for t in self.wall)
        return {
            "median": statistics.median(ms),
            "p10": ms[len(ms) // 10],
            "p90": ms[len(ms) * 9 // 10],
            "min": ms[0],
            "cpu": 1e3 / tasks * statistics.median(self.cpu),
            "steps": len(ms),
        }


def take_turns(steps: Mapping[str, Step], seconds: float, on_gpu: bool = False) -> dict[str, Times]:
    """Times of each step, after warming up, within about `seconds` in all."""
    times = {name: Times() for name in steps}
    for step in steps.values():
        warm_up(step, seconds / 20)
    began, turns = time.perf_counter(), 0
    while turns < FEWEST or time.perf_counter() - began < seconds:
        for name, step in steps.items():
            one_turn(times[name], step, on_gpu)
        turns += 1
    return times


def warm_up(step: Step, seconds: float) -> None:
    began = time.perf_counter()
    for _ in range(2):
        step()
    while time.perf_counter() - began < seconds:
        step()


def one_turn(times: Times, step: Step, on_gpu: bool, turn: float = TURN) -> None:
    began = time.perf_counter()
    times.add(step, on_gpu)
    while time.perf_counter() - began < turn:
        times.add(step, on_gpu)


def use_threads(number: int) -> None:
    """Torch's threads, and those of an XLA that is not imported yet."""
    torch.set_num_threads(number)
    os.environ["PJRT_NPROC"] = os.environ["NPROC"] = str(number)
    if number == 1:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"


def best_gflops(device: str, size: int = 1024) -> float:
    """What this machine does at its best, in a large float32 product: a multiply-add is two; of CPU time on a
    CPU."""
    a = torch.rand(size, size, device=device)
    times = take_turns({"product": lambda: a @ a}, 0.5, device.startswith("cuda"))["product"]
    return 2e-9 * size**3 / min(times.cpu if device == "cpu" else times.wall)
