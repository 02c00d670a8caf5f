# SPDX-License-Identifier: MIT
"""Predicts the training step of many ranks from the parts of one rank's: when backward fills each bucket of the gradient, what a
sum over the ranks takes on given links, how much one rank's steps scatter, what the loader and a checkpoint take.

Everything here is arithmetic on what was measured elsewhere, and what comes out is a prediction. ASSUMPTIONS says what is taken for
granted; bench/scaling prints it below its table."""
import bisect
import collections
import functools
import math
import statistics

# bandwidth: bytes a second that an all-reduce moves ("bus bandwidth", of a node where it lies between nodes); latency: seconds of a hop
Link = collections.namedtuple('Link', 'name bandwidth latency')
LINKS = {link.name: link for link in (
    Link('pcie', 24e9, 5e-6), Link('nvlink', 350e9, 3e-6), Link('ib', 25e9, 5e-6), Link('10gbe', 1.25e9, 25e-6))}
LINK_WORDS = {'pcie': 'PCIe 4.0 in a node', 'nvlink': 'NVLink in a node', 'ib': 'InfiniBand, one 200 Gb/s card a node',
              '10gbe': '10 Gb/s Ethernet', 'measured': 'shared memory of this machine, measured'}

# Ranks, `per_node` of them on a node, joined by `inside`, nodes by `between`; start: seconds that starting one sum takes.
Cluster = collections.namedtuple('Cluster', 'inside between per_node start')

# What a rank does in a step of `windows` windows. filled: seconds from the step's begin until each bucket is filled, in their order;
# sizes: their bytes; update: seconds after the sums; scatter: standard deviation of its own work over its median; aside: whether sums
# go on beside the backward pass (a GPU, a network card) or in the rank's own time (MPI on the rank's core).
Work = collections.namedtuple('Work', 'windows filled sizes update scatter aside')

# survey_bytes: observations in memory; node_memory: bytes of a node for them (data.memory_gb); reading, writing: bytes a second of the
# shared file system; request: seconds of one of its answers; walk: seconds for finding a window in the loader; load: for reading
# it; checkpoint_bytes; tensors: arrays of a checkpoint; every: seconds between checkpoints.
Conditions = collections.namedtuple('Conditions', 'survey_bytes curves shards node_memory reading writing request walk load '
                                                  'checkpoint_bytes tensors every')

WINDOW_BYTES = 200 * (8 + 4 + 4)
WINDOW_REQUESTS = 3  # times, magnitudes and errors of a window stand in three places of a shard
PIECE_BYTES = 4 << 20
ASSUMPTIONS = (
    'a sum of b bytes over n ranks of a node takes 2 (n - 1) hops and moves 2 (n - 1) / n b; between nodes it takes the faster of a ring '
    '(as in a node) and a tree (2 log2 n hops, 2 b); first in the nodes, then between them, one bucket after the other',
    'on a GPU sums go on beside the backward pass and cost it nothing; on CPU ranks, where MPI moves the data on the rank\'s own core, '
    'none of a sum is hidden',
    'links do what their names say, undisturbed by other jobs; no network has fewer links upwards than downwards',
    'a rank\'s steps scatter normally, each rank for itself: a step waits for the slowest of n draws; no rank is slow all the time',
    'all ranks have as many windows; the rest of an epoch that does not fill a batch is left out',
    'the loader works beside the step: it costs what it takes longer than a step, to find and to read the windows of its rank',
    'observations stay in memory where a node\'s memory holds its ranks\' shards (data.memory_gb); else each window is three requests to '
    'the shared file system, one after the other',
    'a checkpoint stops all ranks: its bytes at the file system\'s speed, and one request for each rank\'s part of each tensor and each '
    'beginning 4 MB, sixteen at a time',
)


@functools.lru_cache(maxsize=None)
def expected_maximum(n, points=4000):
    """The mean of the largest of n standard normal numbers."""
    if n == 1:
        return 0.0
    normal = statistics.NormalDist()
    return sum(normal.inv_cdf(((i + 0.5) / points) ** (1 / n)) for i in range(points)) / points


def ring(size, n, link):
    return 2 * (n - 1) * link.latency + 2 * (n - 1) / n * size / link.bandwidth


def tree(size, n, link):
    return 2 * math.ceil(math.log2(n)) * link.latency + 2 * size / link.bandwidth


def sum_seconds(size, ranks, cluster):
    """One all-reduce of `size` bytes."""
    local, nodes = min(ranks, cluster.per_node), math.ceil(ranks / cluster.per_node)
    if ranks == 1:
        return 0.0
    seconds = cluster.start + (ring(size, local, cluster.inside) if local > 1 else 0.0)
    return seconds + (min(ring(size, nodes, cluster.between), tree(size, nodes, cluster.between)) if nodes > 1 else 0.0)


def exposed_seconds(filled, sizes, aside, seconds_of):
    """What the sums add to the time at which the last bucket is filled. They go one after the other, in the buckets' order."""
    if not aside:
        return sum(map(seconds_of, sizes))
    end = 0.0
    for at, size in zip(filled, sizes):
        end = max(end, at) + seconds_of(size)
    return end - filled[-1]


def work_at(works, windows):
    """The work of a step of `windows` windows: on straight lines between those of given sizes, and beyond them."""
    works = sorted(works, key=lambda work: work.windows)
    if len(works) == 1:
        share = windows / works[0].windows
        return works[0]._replace(windows=windows, filled=tuple(share * at for at in works[0].filled))
    i = min(max(bisect.bisect(works, windows, key=lambda work: work.windows), 1), len(works) - 1)
    a, b = works[i - 1], works[i]
    share = (windows - a.windows) / (b.windows - a.windows)

    def line(x, y):
        return max(0.0, x + share * (y - x))
    near = b if share > 0.5 else a
    return near._replace(windows=windows, filled=tuple(map(line, a.filled, b.filled)), update=line(a.update, b.update))


def checkpoint_seconds(ranks, c):
    requests = ranks * c.tensors + c.checkpoint_bytes / PIECE_BYTES
    return c.checkpoint_bytes / c.writing + c.request * math.ceil(requests / 16)


def reading_seconds(work, ranks, per_node, c):
    """What a step's windows take from the file system, and whether they are in memory instead."""
    node = c.survey_bytes * min(ranks, per_node) / ranks
    if node <= c.node_memory:
        return 0.0, True
    every_rank = ranks * work.windows * WINDOW_BYTES / c.reading
    return max(every_rank, work.windows * WINDOW_REQUESTS * c.request), False


def simulate(work, ranks, cluster, c, seconds_of=None):
    """A step of `ranks` ranks: seconds, windows a second, efficiency (against as many lone ranks) and what is lost to what."""
    seconds_of = seconds_of or functools.partial(sum_seconds, ranks=ranks, cluster=cluster)
    own = work.filled[-1] + work.update
    slowest = 1 + work.scatter * expected_maximum(ranks)
    filled = [at * slowest for at in work.filled]
    sums = exposed_seconds(filled, work.sizes, work.aside, seconds_of)
    step = own * slowest + sums
    reading, resident = reading_seconds(work, ranks, cluster.per_node, c)
    loading = work.windows * (c.load + c.walk)
    late_loader, late_files = max(0.0, loading - step), max(0.0, reading - max(step, loading))
    step += late_loader + late_files
    stop = checkpoint_seconds(ranks, c) / c.every * step if c.every else 0.0
    lost = {'sums over the ranks': sums, 'the slowest rank': own * (slowest - 1), 'the loader': late_loader, 'reading': late_files,
            'checkpoints': stop}
    return {'ranks': ranks, 'windows_of_a_rank': work.windows, 'seconds': step + stop, 'own_seconds': own,
            'windows_per_second': ranks * work.windows / (step + stop), 'efficiency': own / (step + stop), 'lost_seconds': lost,
            'all_sums_seconds': sum(map(seconds_of, work.sizes)), 'data_share': (late_loader + late_files) / (step + stop),
            'shard_bytes_of_a_rank': c.survey_bytes / ranks, 'in_memory': resident, 'checkpoint_seconds': checkpoint_seconds(ranks, c),
            'steps_of_an_epoch': c.curves / (ranks * work.windows), 'shards_suffice': ranks <= c.shards}


def bends_first(row):
    """What takes most of what is lost, with its share of the step; and what stands in the way of the run altogether."""
    name, seconds = max(row['lost_seconds'].items(), key=lambda item: item[1])
    share = seconds / row['seconds']
    words = f'{name} ({share:.1%})' if share >= 0.001 else 'nothing'
    if not row['shards_suffice']:
        words += f'; needs {row["ranks"]} shards'
    if row['steps_of_an_epoch'] < 20:
        words += f'; only {row["steps_of_an_epoch"]:.1f} steps an epoch'
    return words


def bent_at(works, windows, cluster, c, least=0.9, most=1 << 20):
    """The smallest power of two of ranks whose efficiency is below `least`: (ranks, its row), or None. windows: of a rank, as a
    function of the ranks."""
    ranks = 2
    while ranks <= most and windows(ranks) >= 1:
        row = simulate(work_at(works, windows(ranks)), ranks, cluster, c)
        if row['efficiency'] < least:
            return ranks, row
        ranks *= 2
    return None


def fitted_link(points, ranks):
    """A link, and the seconds of starting a sum, from measured (bytes, seconds) of sums over `ranks` ranks of a node: the smallest one
    is all start, the slope is the median of what larger ones took for a byte."""
    points = sorted(points)
    start = points[0][1]
    slopes = [(seconds - start) / size for size, seconds in points if size >= 1 << 18]
    if not slopes or min(slopes) <= 0:
        raise ValueError('the times of the sums over the ranks do not grow with their size')
    return Link('measured', 2 * (ranks - 1) / ranks / statistics.median(slopes), 0.0), start


def interpolated(points):
    """Seconds of a sum of any size, on straight lines between measured (bytes, seconds)."""
    points = sorted(points)
    sizes = [size for size, _ in points]

    def seconds_of(size):
        i = min(max(bisect.bisect(sizes, size), 1), len(points) - 1)
        (x, a), (y, b) = points[i - 1], points[i]
        return a if size <= sizes[0] else a + (b - a) * (size - x) / (y - x)
    return seconds_of
