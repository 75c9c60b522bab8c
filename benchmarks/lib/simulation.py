"""A cluster in simulated time: a batch of videos, or the curation of clips.

Everything that nodes share is a queue, served in the order of arrival: the driver, the head's link,
the object store's requests and its bandwidth. Nothing fails. Discrete events by SimPy.
"""

import math
import random
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import simpy

from hummingbird_edge.benchmarks.lib.figures import Figures

__all__ = ["Outcome", "curate", "generate"]

Steps = Generator[simpy.Event, Any, None]
"""A process of SimPy."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulated cluster did."""

    seconds: float
    """From its start until all is done."""
    per_s: float
    """Videos or clips a second while the middle half of them was made."""
    efficiency: float
    """The seconds that the work alone takes on these nodes, by `seconds`."""
    shares: dict[str, float]
    """How busy each thing that nodes share was, 0 to 1."""

    @property
    def limit(self) -> str:
        """The busiest of them."""
        return max(self.shares, key=lambda name: self.shares[name])


class Server:
    """Serves one at a time."""

    def __init__(self, environment: simpy.Environment) -> None:
        self._environment, self._turns = environment, simpy.Resource(environment)
        self.busy_s = 0.0

    def serve(self, seconds: float) -> Steps:
        """Wait for a turn, and as long as it takes."""
        with self._turns.request() as turn:
            yield turn
            yield self._environment.timeout(seconds)
        self.busy_s += seconds


class Link:
    """Carries as many streams as share its bandwidth without waiting for their other ends."""

    def __init__(
        self, environment: simpy.Environment, bits_per_s: float, stream_bits_per_s: float
    ) -> None:
        streams = math.ceil(bits_per_s / stream_bits_per_s)
        self.bytes_per_s = bits_per_s / 8
        self.stream_bytes_per_s = self.bytes_per_s / streams
        self.turns = simpy.Resource(environment, streams)
        self.bytes = 0.0


class Cluster:
    """Nodes, and what they share."""

    def __init__(self, figures: Figures, nodes: int) -> None:
        self.figures, self.count = figures, nodes
        self.environment = simpy.Environment()
        self.driver, self.requests = Server(self.environment), Server(self.environment)
        self.head = self._link(figures.node_bits_per_s)
        self.store = self._link(figures.store_bits_per_s)
        self.nodes = [self._link(figures.node_bits_per_s) for _ in range(nodes)]
        self.ends: list[float] = []
        """When each block of work ended."""
        self._random = random.Random(nodes)

    def _link(self, bits_per_s: float) -> Link:
        return Link(self.environment, bits_per_s, self.figures.node_bits_per_s)

    def carry(self, size: float, *links: Link) -> Steps:
        """Send bytes through all links at once, as fast as the slowest stream."""
        with ExitStack() as held:
            for link in links:
                yield held.enter_context(link.turns.request())
            yield self.environment.timeout(size / min(link.stream_bytes_per_s for link in links))
        for link in links:
            link.bytes += size

    def ask_store(self, requests: float, size: float, *links: Link) -> Steps:
        """Read or write objects of the store through `links`."""
        yield from self.requests.serve(requests / self.figures.requests_per_s)
        yield from self.carry(size, *links, self.store)

    def work(self, seconds: float) -> simpy.Event:
        """Compute for about as long."""
        spread = self.figures.spread_ratio
        return self.environment.timeout(seconds * self._random.uniform(1 - spread, 1 + spread))

    def run(self, processes: Sequence[Steps]) -> None:
        """Run processes to the end of all."""
        started = [self.environment.process(each) for each in processes]
        self.environment.run(self.environment.all_of(started))

    def outcome(self, ideal_s: float, items: float) -> Outcome:
        """Return what was done: `items` at each of `ends`."""
        seconds, quarter = self.environment.now, len(self.ends) // 4
        first, last = self.ends[quarter], self.ends[-1 - quarter]
        middle = len(self.ends) - 1 - 2 * quarter
        shares = {
            "driver": self.driver.busy_s / seconds,
            "head's link": self.head.bytes / self.head.bytes_per_s / seconds,
            "store's requests": self.requests.busy_s / seconds,
            "store's bandwidth": self.store.bytes / self.store.bytes_per_s / seconds,
        }
        per_s = middle * items / (last - first) if last > first else items / seconds
        return Outcome(seconds, per_s, ideal_s / seconds, shares)


def generate(figures: Figures, nodes: int, jobs: int, by_head: bool) -> Outcome:
    """Make `jobs` videos a node, as `hb-run --batch --ray` does.

    `by_head`: the bundle comes from the head to each node, and videos go to the store through it,
    as they do today. Otherwise nodes read and write the store themselves.
    """
    cluster, left = Cluster(figures, nodes), nodes * jobs

    def worker(link: Link) -> Steps:
        nonlocal left
        yield from cluster.driver.serve(1 / figures.actors_per_s)
        if by_head:
            yield from cluster.carry(figures.bundle_bytes, link, cluster.head)
        else:
            pieces = math.ceil(figures.bundle_bytes / figures.piece_bytes)
            yield from cluster.ask_store(pieces, figures.bundle_bytes, link)
        yield cluster.environment.timeout(figures.start_s)
        while left:
            left -= 1
            yield cluster.work(figures.video_s)
            if by_head:
                yield from cluster.carry(figures.video_bytes, link, cluster.head)
                yield from cluster.ask_store(1, figures.video_bytes, cluster.head)
            else:
                yield from cluster.ask_store(1, figures.video_bytes, link)
            yield from cluster.driver.serve(figures.job_s)
            cluster.ends.append(cluster.environment.now)

    cluster.run([worker(link) for link in cluster.nodes])
    return cluster.outcome(jobs * figures.video_s, 1)


def curate(figures: Figures, nodes: int, clips: int) -> Outcome:
    """Curate `clips` a node as `hb-distill curate --ray --pack` does.

    Nodes measure them in blocks; the driver collects the rows and finds the copies, alone; nodes
    read what is kept again and write it in shards.
    """
    cluster, cores = Cluster(figures, nodes), round(figures.cores)
    blocks = max(1, round(nodes * clips / figures.block_clips))
    shards = math.ceil(nodes * clips * figures.kept_ratio / figures.shard_clips)

    def measure(link: Link) -> Steps:
        """Measure one block after the other on one core."""
        nonlocal blocks
        while blocks:
            blocks -= 1
            collect_s = figures.block_clips * figures.collect_s
            yield from cluster.driver.serve(1 / figures.tasks_per_s + collect_s)
            requests = figures.block_clips * figures.clip_requests
            yield from cluster.ask_store(requests, figures.block_clips * figures.clip_bytes, link)
            yield cluster.work(figures.block_clips * figures.clip_s)
            cluster.ends.append(cluster.environment.now)

    def pack(link: Link) -> Steps:
        """Make one shard after the other on one core: its clips are read, it and a note written."""
        nonlocal shards
        while shards:
            shards -= 1
            yield from cluster.driver.serve(1 / figures.tasks_per_s)
            size = figures.shard_clips * figures.clip_bytes
            yield from cluster.ask_store(figures.shard_clips, size, link)
            yield from cluster.ask_store(2, size, link)

    every = [link for link in cluster.nodes for _ in range(cores)]
    cluster.run([measure(link) for link in every])
    cluster.run([cluster.driver.serve(nodes * clips * figures.decide_s)])
    cluster.run([pack(link) for link in every])
    return cluster.outcome(clips / cores * figures.clip_s, figures.block_clips)
