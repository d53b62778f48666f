"""Remote shards: what the coming steps will read is fetched before they ask."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bridle.archive import Place
from bridle.errors import EnvironmentFault
from bridle.storage import Cache, Remote, blocks_of
from bridle.storage.cache import BLOCK_BYTES
from bridle.stream.index import Index
from bridle.stream.order import Request

_THREADS = 8
_BLOCKS = 64  # of 8 MiB, asked for beyond the step that is read
_SAMPLES = 8192  # looked at beyond the step that is read


def fetch_ahead(steps: Iterator[list[Request]], index: Index) -> Iterator[list[Request]]:
    """The same steps, each given out when the blocks of many later ones have been asked for.

    Whoever reads a step does not wait for it to be here: what fails or comes late is read by him again, who will say
    what is wrong.
    """
    cache, asked = Cache(), OrderedDict[tuple[Remote, int], None]()
    waiting = deque[tuple[list[Request], int]]()
    remembered = max(1, cache.limit_bytes // BLOCK_BYTES // 2)  # those will be here still
    ahead = min(_BLOCKS, remembered)
    blocks = samples = 0
    pool = ThreadPoolExecutor(_THREADS)

    def fetch(tar: Remote, number: int) -> None:
        with contextlib.suppress(OSError, EnvironmentFault):
            if not cache.has(tar, number):
                cache.block(tar, number)

    def ask(places: Iterator[Place]) -> int:
        count = 0
        for place in places:
            if not isinstance(place.tar, Remote):
                continue
            for number in blocks_of(place.offset, place.bytes):
                if (place.tar, number) not in asked:
                    asked[place.tar, number] = None
                    pool.submit(fetch, place.tar, number)
                    count += 1
        while len(asked) > remembered:
            asked.popitem(last=False)
        return count

    try:
        for step in steps:
            count = ask(place for one in step for place in (index.meta(one.index), index.media(one.index)))
            waiting.append((step, count))
            blocks, samples = blocks + count, samples + len(step)
            while blocks > ahead or samples > _SAMPLES:
                step, count = waiting.popleft()
                blocks, samples = blocks - count, samples - len(step)
                yield step
    finally:
        pool.shutdown(cancel_futures=True)  # to the end: whoever forks next must find no thread at work
