"""Where workers that share a pack have to wait for one another: at barriers between steps.

Each worker takes as many units of every step, in order, and most steps read nothing of a tile but
what the steps before made of the same tile.  Where the tiles of a pack divide evenly among the
workers, every worker has tiles of its own, and they wait for one another only before a step that
reads others' tiles (attention), or that takes the rows of sentences out of tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..kernels.call import EVERYWHERE, NOWHERE, WHERE_UNEVEN
from .memory import Buffer
from .steps import Step

__all__ = ["barriers", "ranges_between_barriers"]


def barriers(
    steps: Sequence[Step], live_ranges: Mapping[Buffer, tuple[int, int]], late: int
) -> list[int]:
    """Where workers wait after each step: everywhere after the last one and before step `late`,
    where the next pack begins.  live_ranges: the first and last step of each buffer.
    """
    made = {buffer: first for buffer, (first, _) in live_ranges.items()}
    after = [NOWHERE] * len(steps)
    met, all_met = 0, 0  # the steps before have been waited for: where tiles are uneven, everywhere
    for number, step in enumerate(steps):
        read = [buffer for buffer in step.buffers() if made[buffer] != number]
        fresh = [buffer for buffer in read if made[buffer] >= all_met]
        if number == late or not all(_own_tiles(step, buffer) for buffer in fresh):
            met = all_met = number
            need = EVERYWHERE
        elif any(made[buffer] >= met for buffer in fresh):
            met = number
            need = WHERE_UNEVEN
        else:
            need = NOWHERE
        if number:
            after[number - 1] = need
    if steps:
        after[-1] = EVERYWHERE
    return after


def _own_tiles(step: Step, buffer: Buffer) -> bool:
    return step.own_tiles and step.domain == buffer.domain == "tokens"


def ranges_between_barriers(
    live_ranges: Mapping[Buffer, tuple[int, int]], after: Sequence[int]
) -> dict[Buffer, tuple[int, int]]:
    """Live ranges counted in intervals between barriers: within one, a worker may be steps ahead of
    another, so that no memory may change hands.
    """
    interval = [0]
    for who in after:
        interval.append(interval[-1] + (who == EVERYWHERE))
    return {
        buffer: (interval[first], interval[last]) for buffer, (first, last) in live_ranges.items()
    }
