"""Maximum flow on a grid by two search trees (Boykov and Kolmogorov, PAMI 2004, Sec. 3).

The grid is stored with a frame of one cell on every side, whose capacities are 0, as flat arrays of n cells:
a neighbour is a fixed step away, and no cell needs a test for the border. Direction d goes by steps[d], and
directions come in pairs: d ^ 1 goes back. capacity[d, i] is what can still flow from cell i in direction d,
terminal[i] what can still flow from the source into i, or, below 0, from i into the sink.

A tree of cells grows from the source, another from the sink, along edges that are not full. Where they meet
there is a path; the flow it takes fills an edge or more, cells beyond it lose their parent ("orphans") and
look for another one in their tree, preferably a near one (by the distance marks of Kolmogorov's code).
"""

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8

from ..compiling import inlined, kernel

FREE, SOURCE, SINK = 0, 1, 2  # the tree of a cell
TERMINAL, ORPHAN, NONE = 100, 101, 102  # parents that are no direction
FAR = 1 << 30


@kernel
def max_flow(
    capacity: Float64[np.ndarray, "d n"],
    terminal: Float64[np.ndarray, " n"],
    steps: Int64[np.ndarray, " d"],
    tree: UInt8[np.ndarray, " n"],
) -> float:
    """The largest flow from source to sink; capacities are left with what remains of them.

    Args:
        capacity: see above; changed.
        terminal: see above; changed.
        steps: of every direction, there and back.
        tree: filled: SOURCE for the cells that the source still reaches, one side of a minimum cut.
    """
    n = len(terminal)
    parent = np.full(n, NONE, np.uint8)
    distance, stamp = np.zeros(n, np.int32), np.zeros(n, np.int32)
    orphans = np.empty(n, np.int64)
    queue, queued = np.empty(n + 1, np.int64), np.zeros(n, np.uint8)
    first = last = 0  # the active cells are queue[first:last], a ring
    for i in range(n):
        tree[i] = FREE
        if terminal[i] != 0:
            tree[i] = SOURCE if terminal[i] > 0 else SINK
            parent[i], distance[i] = TERMINAL, 1
            queue[last], queued[i] = i, 1
            last += 1
    flow, time = 0.0, 0
    while first != last:
        i = queue[first]
        if parent[i] == NONE:
            meeting = -1
        else:
            meeting, last = _grow(i, capacity, steps, tree, parent, distance, stamp, queue, queued, last)
        if meeting < 0:  # nothing left to grow into
            queued[i] = 0
            first = first + 1 if first < n else 0
            continue
        time += 1
        if tree[i] == SOURCE:
            start, direction = i, meeting
        else:  # the edge runs into i
            start, direction = i + steps[meeting], meeting ^ 1
        found, count = _augment(start, direction, capacity, terminal, steps, parent, orphans)
        flow += found
        last = _adopt(
            count, time, capacity, steps, tree, parent, distance, stamp, orphans, queue, queued, last
        )
    return flow


@inlined
def _grow(
    i: int,
    capacity: Float64[np.ndarray, "d n"],
    steps: Int64[np.ndarray, " d"],
    tree: UInt8[np.ndarray, " n"],
    parent: UInt8[np.ndarray, " n"],
    distance: Int32[np.ndarray, " n"],
    stamp: Int32[np.ndarray, " n"],
    queue: Int64[np.ndarray, " m"],
    queued: UInt8[np.ndarray, " n"],
    last: int,
) -> tuple[int, int]:
    """Take free neighbours of cell i into its tree. Gives the direction to the other tree, or -1."""
    mine = tree[i]
    for d in range(len(steps)):
        j = i + steps[d]
        back = d ^ 1
        room = capacity[d, i] if mine == SOURCE else capacity[back, j]
        if room <= 0:
            continue
        if tree[j] == FREE:
            tree[j], parent[j] = mine, back
            stamp[j], distance[j] = stamp[i], distance[i] + 1
            if not queued[j]:
                queue[last], queued[j] = j, 1
                last = last + 1 if last < len(queue) - 1 else 0
        elif tree[j] != mine:
            return d, last
        elif stamp[j] <= stamp[i] and distance[j] > distance[i]:  # a shorter way to the root
            parent[j], stamp[j], distance[j] = back, stamp[i], distance[i] + 1
    return -1, last


@inlined
def _augment(
    start: int,
    direction: int,
    capacity: Float64[np.ndarray, "d n"],
    terminal: Float64[np.ndarray, " n"],
    steps: Int64[np.ndarray, " d"],
    parent: UInt8[np.ndarray, " n"],
    orphans: Int64[np.ndarray, " n"],
) -> tuple[float, int]:
    """Send what the path over one edge between the trees takes. Gives that and the number of orphans."""
    end = start + steps[direction]
    room = capacity[direction, start]
    i = start
    while parent[i] != TERMINAL:  # from the source down to start
        d = parent[i]
        i += steps[d]
        room = min(room, capacity[d ^ 1, i])
    room = min(room, terminal[i])
    i = end
    while parent[i] != TERMINAL:  # from end up to the sink
        d = parent[i]
        room = min(room, capacity[d, i])
        i += steps[d]
    room = min(room, -terminal[i])

    count = 0
    capacity[direction, start] -= room
    capacity[direction ^ 1, end] += room
    i = start
    while parent[i] != TERMINAL:
        d = parent[i]
        j = i + steps[d]
        back = d ^ 1
        capacity[d, i] += room
        capacity[back, j] -= room
        if capacity[back, j] == 0:
            parent[i], orphans[count] = ORPHAN, i
            count += 1
        i = j
    terminal[i] -= room
    if terminal[i] == 0:
        parent[i], orphans[count] = ORPHAN, i
        count += 1
    i = end
    while parent[i] != TERMINAL:
        d = parent[i]
        j = i + steps[d]
        capacity[d, i] -= room
        capacity[d ^ 1, j] += room
        if capacity[d, i] == 0:
            parent[i], orphans[count] = ORPHAN, i
            count += 1
        i = j
    terminal[i] += room
    if terminal[i] == 0:
        parent[i], orphans[count] = ORPHAN, i
        count += 1
    return room, count


@inlined
def _adopt(
    count: int,
    time: int,
    capacity: Float64[np.ndarray, "d n"],
    steps: Int64[np.ndarray, " d"],
    tree: UInt8[np.ndarray, " n"],
    parent: UInt8[np.ndarray, " n"],
    distance: Int32[np.ndarray, " n"],
    stamp: Int32[np.ndarray, " n"],
    orphans: Int64[np.ndarray, " n"],
    queue: Int64[np.ndarray, " m"],
    queued: UInt8[np.ndarray, " n"],
    last: int,
) -> int:
    """Find every orphan a new parent in its tree, or set it free and orphan its children."""
    done = 0
    while done < count:
        i = orphans[done]
        done += 1
        mine = tree[i]
        best, nearest = -1, FAR
        for d in range(len(steps)):
            j = i + steps[d]
            if tree[j] != mine or parent[j] == NONE:
                continue
            room = capacity[d ^ 1, j] if mine == SOURCE else capacity[d, i]
            if room <= 0:
                continue
            away = _distance_to_root(j, time, steps, parent, distance, stamp)
            if away < nearest:
                best, nearest = d, away
        if best >= 0:
            parent[i], stamp[i], distance[i] = best, time, nearest + 1
            continue
        parent[i], tree[i] = NONE, FREE
        for d in range(len(steps)):
            j = i + steps[d]
            if tree[j] != mine or parent[j] == NONE:
                continue
            back = d ^ 1
            room = capacity[back, j] if mine == SOURCE else capacity[d, i]
            if room > 0 and not queued[j]:  # j may grow into i again
                queue[last], queued[j] = j, 1
                last = last + 1 if last < len(queue) - 1 else 0
            if parent[j] == back:  # a child of i
                parent[j], orphans[count] = ORPHAN, j
                count += 1
    return last


@inlined
def _distance_to_root(
    i: int,
    time: int,
    steps: Int64[np.ndarray, " d"],
    parent: UInt8[np.ndarray, " n"],
    distance: Int32[np.ndarray, " n"],
    stamp: Int32[np.ndarray, " n"],
) -> int:
    """Edges from cell i to its terminal, FAR if the way ends at an orphan. Marks the way with distances."""
    j, away = i, 0
    while stamp[j] != time:
        towards = parent[j]
        away += 1
        if towards == TERMINAL:
            stamp[j], distance[j] = time, 1
            break
        if towards >= ORPHAN:
            return FAR
        j += steps[towards]
    else:
        away += distance[j]
    total = away
    j = i
    while stamp[j] != time:
        stamp[j], distance[j] = time, away
        away -= 1
        j += steps[parent[j]]
    return total
