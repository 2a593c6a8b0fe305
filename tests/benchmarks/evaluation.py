"""What an evaluation costs beside drawing images and computing their features.

    python -m tests.benchmarks.evaluation [--features=squeezenet|inception]

The time of all that `progdist.evaluate` does for FD, IS, KID, precision and recall of
some images (their statistics are gathered while they are drawn; the reference's are
there already) over that of drawing them and computing their features alone; and the
most memory of processes that gather what the Fréchet distance needs of so many images,
and of four times as many, and do nothing else. The Inception gets weights at random,
which changes neither. Takes two minutes with squeezenet.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import get_args

import jax
import numpy as np

from progdist import parallel
from progdist.commands.devices import num_cores
from progdist.config import load_preset
from progdist.evaluate import extraction, metrics
from progdist.evaluate.features import inception
from progdist.evaluate.features.networks import inception_network
from progdist.model import init_params
from progdist.preflight import make_model
from progdist.sampling.draw import Batches, make_sampler
from tests import feature_weights

BATCH, STEPS = 64, 4
FEW, MANY, TURNS = 1024, 2048, 3
METRICS = tuple(map(metrics.make_metric, get_args(metrics.Metric)))


def make_extractor(name: str) -> extraction.Extractor:
    """The network's extractor, with weights at random where none can be had."""
    if name == "squeezenet":
        return extraction.make_extractor(name, (8, 8, 1), BATCH)
    net = inception.from_arrays(feature_weights.inception_arrays())
    network = inception_network(net)
    return extraction.network_extractor(network, (8, 8, 1), BATCH)


class Case:
    """The digits' network with parameters at random, and an extractor."""

    def __init__(self, name: str) -> None:
        """Compiles both."""
        model, self.mesh = make_model(load_preset("digits")), parallel.make_mesh()
        self.params = init_params(model, 0, self.mesh)
        self.sampler = make_sampler(model, self.mesh, "ddim", 0.0)
        self.extractor = make_extractor(name)
        self.alone(BATCH)

    def images(self, num: int) -> Iterator[extraction.Part]:
        """Draws."""
        batches = Batches(self.sampler, self.params, 0, num, STEPS, BATCH, self.mesh)
        first = 0
        for images in batches:
            yield np.arange(first, first + len(images)), images
            first += len(images)

    def alone(self, num: int) -> None:
        """Draws and computes features, no more."""
        for _, images in self.images(num):
            self.extractor.extract(images)

    def statistics(self, num: int) -> metrics.Statistics:
        """All that a set of images is known by."""
        (found,) = extraction.collect([self.extractor], self.images(num), num)
        return found

    def evaluation(self, num: int, reference: metrics.Statistics) -> None:
        """All of it."""
        samples = self.statistics(num)
        for metric in METRICS:
            metric.values(samples, reference)


def seconds(task: Callable[..., object], *args: object) -> np.ndarray:
    """How long a call takes: (wall, CPU)."""
    began = np.array([time.perf_counter(), time.process_time()])
    task(*args)
    return np.array([time.perf_counter(), time.process_time()]) - began


def main(argv: list[str]) -> None:
    """Prints the ratio, and the memory of a process for each number of images."""
    name = argv[1].removeprefix("--features=") if argv[1:] else "squeezenet"
    case = Case(name)
    reference = case.statistics(FEW)
    ratios = []
    for _ in range(TURNS):
        alone = seconds(case.alone, MANY)
        ratios.append(seconds(case.evaluation, MANY, reference) / alone)
        print(f"{MANY} images, {name}: {alone[0]:.1f} s alone, x {ratios[-1][0]:.3f}")
    wall, cpu = np.median(ratios, axis=0)
    print(f"evaluation / (drawing + features): {wall:.3f}, in CPU time {cpu:.3f}")
    for num in (MANY, 4 * MANY):
        command = [sys.executable, "-m", "tests.benchmarks.evaluation", name, str(num)]
        subprocess.run(command, check=True, timeout=3600)


def show_memory(name: str, num: int) -> None:
    """Prints the most that this process has held for an FD of so many images."""
    case = Case(name)
    needs = metrics.make_metric("fd").needs
    extraction.collect([case.extractor], case.images(num), num, needs)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"memory at its most, FD of {num:,} images: {most:.0f} MB")


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", num_cores())
    if len(sys.argv) == 3:
        show_memory(sys.argv[1], int(sys.argv[2]))
    else:
        main(sys.argv)
