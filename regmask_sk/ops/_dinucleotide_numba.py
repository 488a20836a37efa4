"""Shuffles of runs of bases that keep their dinucleotides, compiled with Numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from regmask_sk.ops._numba_compiled import compiled


@compiled
def shuffle_runs(codes: Any, chosen: Any, random: Any) -> None:
    """Shuffle, in place, each run of chosen bases; codes of 4 and more end a run.

    A run of letters is a walk over a graph with an edge for each dinucleotide. Another walk over
    all edges from the same first letter to the same last one has the same dinucleotides. It is
    drawn at random by choosing for each letter the edge by which it is left for the last time,
    and putting all others in a random order.
    """
    n = len(codes)
    start = 0
    while start < n:
        if not chosen[start] or codes[start] > 3:
            start += 1
            continue
        end = start + 1
        while end < n and chosen[end] and codes[end] < 4:
            end += 1
        if end - start > 3:
            _shuffle(codes, start, end, random)
        start = end


@compiled
def _shuffle(codes: Any, start: Any, end: Any, random: Any) -> None:
    last = codes[end - 1]
    count = np.zeros((4, 4), np.int64)
    for i in range(start, end - 1):
        count[codes[i], codes[i + 1]] += 1

    # Last exits: they must lead every letter to the last one, so they form a tree, drawn by a
    # random walk whose loops are erased (Wilson, 1996). An edge from a letter to itself is in no
    # tree.
    exits = np.zeros(4, np.int64)
    joined = np.zeros(4, np.bool_)
    joined[last] = True
    for letter in range(4):
        if count[letter].sum() == 0:
            continue
        at = letter
        while not joined[at]:
            total = count[at].sum() - count[at, at]
            drawn = np.int64(random.random() * total)
            for other in range(4):
                if other == at:
                    continue
                if drawn < count[at, other]:
                    exits[at] = other
                    break
                drawn -= count[at, other]
            at = exits[at]
        at = letter
        while not joined[at]:
            joined[at] = True
            at = exits[at]

    # The edges of each letter in the order in which they are taken.
    order = np.empty(end - start - 1, np.int64)
    place = np.zeros(4, np.int64)
    filled = 0
    for letter in range(4):
        place[letter] = filled
        begin = filled
        for other in range(4):
            n_edges = count[letter, other]
            if letter != last and other == exits[letter] and n_edges > 0:
                n_edges -= 1
            for _ in range(n_edges):
                order[filled] = other
                filled += 1
        for i in range(filled - 1, begin, -1):
            j = begin + np.int64(random.random() * (i - begin + 1))
            order[i], order[j] = order[j], order[i]
        if letter != last and count[letter].sum() > 0:
            order[filled] = exits[letter]
            filled += 1

    for i in range(start + 1, end):
        here = codes[i - 1]
        codes[i] = order[place[here]]
        place[here] += 1
