"""Masks: the right share hidden, padding never touched, every shape what its name says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridle.model import draw_mask
from bridle.patches.cut import coordinates
from bridle.rng import Draws
from bridle.schema import PatchBatch


def batch_of(grid: tuple[int, int, int], steps: list[int]) -> PatchBatch:
    coords = coordinates(grid).expand(len(steps), -1, -1)
    valid = coords[..., 0] < torch.tensor(steps)[:, None]
    return PatchBatch(torch.zeros(*valid.shape, 2), coords, valid, valid.sum(1).tolist(), grid)


@settings(max_examples=60, deadline=None)
@example(shape="random", grid=(3, 3, 5), ratio=0.3, steps=[3])  # 31.5 in float32, a little less in float64
@given(
    shape=st.sampled_from(["random", "tube", "block"]),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5)),
    ratio=st.floats(0.05, 0.95),
    steps=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_every_valid_patch_is_either_visible_or_masked(shape, grid, ratio, steps) -> None:  # type: ignore[no-untyped-def]
    steps = [min(step, grid[0]) for step in steps]
    batch = batch_of(grid, steps)
    if int(batch.valid_BN.sum(1).max()) < 2:
        return  # a single patch cannot be split
    mask = draw_mask(batch, shape, ratio, Draws(1, 0, range(len(steps))))
    for row in range(len(steps)):
        n = int(batch.valid_BN[row].sum())
        visible = mask.visible_BV[row]
        masked = mask.masked_BM[row]
        if mask.visible_valid_BV is not None and mask.masked_valid_BM is not None:
            visible, masked = visible[mask.visible_valid_BV[row]], masked[mask.masked_valid_BM[row]]
        both = torch.cat([visible, masked])
        assert sorted(both.tolist()) == torch.arange(len(batch.valid_BN[row]))[batch.valid_BN[row]].tolist()
        whole = steps[row] if shape == "tube" and grid[1] * grid[2] > 1 else 1
        units = n // whole
        assert len(visible) == whole * min(max(1, round(units * (1 - ratio))), max(1, units - 1))
        if whole > 1:  # no tube is split: a visible part would give the rest away
            tubes = grid[1] * grid[2]
            assert not set((visible % tubes).tolist()) & set((masked % tubes).tolist())


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(["random", "tube", "block"]),
    predict=st.sampled_from([1.0, 0.4]),
    masks=st.integers(1, 2),
    steps=st.lists(st.integers(1, 6), min_size=2, max_size=5),
)
def test_the_company_of_a_clip_does_not_change_its_mask(shape, predict, masks, steps) -> None:  # type: ignore[no-untyped-def]
    """However a batch is cut into parts, which pad to their own longest clip."""
    full = (6, 3, 2)

    def sets(steps: list[int], places: list[int]) -> dict[int, list[set[int]]]:
        batch = batch_of((max(steps), 3, 2), steps)
        draws = Draws(1, 0, [place + 10 * number for number in range(masks) for place in places])
        mask = draw_mask(batch, shape, 0.6, draws, predict, full)
        found: dict[int, list[set[int]]] = {place: [] for place in places}
        for row, place in enumerate(places * masks):
            for index, valid in ((mask.visible_BV, mask.visible_valid_BV), (mask.masked_BM, mask.masked_valid_BM)):
                found[place].append(set((index[row] if valid is None else index[row][valid[row]]).tolist()))
        return found

    together, places = sets(steps, list(range(len(steps)))), list(range(len(steps)))
    for part in (places[:1], places[1:]):
        for place, found in sets([steps[place] for place in part], part).items():
            assert found == together[place]
            hidden = 6 * steps[place] - len(found[0])
            assert len(found[1]) == min(hidden, max(1, round(hidden * predict)))


def test_a_single_tube_is_no_tube() -> None:
    batch = batch_of((8, 1, 1), [8, 8])
    visible = [draw_mask(batch, "tube", 0.5, Draws(seed, 0, range(2))).visible_BV for seed in range(2)]
    assert visible[0].shape[1] == 4 and not torch.equal(*visible)


def test_tubes_hide_the_same_place_at_all_times() -> None:
    grid = (4, 3, 3)
    batch = batch_of(grid, [4, 4])
    mask = draw_mask(batch, "tube", 2 / 3, Draws(0, 0, range(2)))
    hidden = torch.zeros(2, 36, dtype=torch.bool).scatter_(1, mask.masked_BM, True).view(2, 4, 9)
    assert (hidden == hidden[:, :1]).all()


def test_blocks_hide_neighbours_together() -> None:
    grid = (1, 16, 16)
    batch = batch_of(grid, [1] * 32)

    def broken_edges(shape: str) -> float:
        mask = draw_mask(batch, shape, 0.5, Draws(0, 0, range(32)))
        hidden = torch.zeros(32, 256).scatter_(1, mask.masked_BM, 1.0).view(32, 16, 16)
        return (hidden.diff(dim=1).abs().mean() + hidden.diff(dim=2).abs().mean()).item()

    assert broken_edges("block") < 0.5 * broken_edges("random")


def test_blocks_are_rectangles_of_a_sixth_to_half_of_each_side() -> None:
    """Few enough hidden patches lie in the rectangle that fell first, which may reach over the edge of the grid."""
    grid = (1, 24, 12)
    batch = batch_of(grid, [1] * 400)
    mask = draw_mask(batch, "block", 0.02, Draws(0, 0, range(400)))  # 6 of 288
    rows, columns = mask.masked_BM // 12, mask.masked_BM % 12
    height, width = (places.amax(1) - places.amin(1) + 1 for places in (rows, columns))
    assert int(height.amax()) <= 13 and int(width.amax()) <= 7  # a half of 24 or 12 covers one more where it begins
    inside = (height <= 12) & (width <= 6)
    assert inside.float().mean() > 0.95 and int(height.amax()) > 8 and int(width.amax()) > 4
    hidden = draw_mask(batch, "block", 0.5, Draws(0, 0, range(400))).masked_BM
    share_N = torch.zeros(288).index_add_(0, hidden.flatten(), torch.ones(hidden.numel())) / 400
    assert share_N.min() > 0.2 and share_N.max() < 0.75  # no place is always seen or never


def test_single_patches_are_hidden_alike() -> None:
    """Each of 12 patches, a third hidden in 3000 masks: 1/3 within four deviations, neighbours independent."""
    batch = batch_of((3, 2, 2), [3] * 3000)
    mask = draw_mask(batch, "random", 1 / 3, Draws(0, 0, range(3000)))
    assert mask.masked_BM.shape == (3000, 4) and mask.visible_BV.shape == (3000, 8)
    hidden = torch.zeros(3000, 12).scatter_(1, mask.masked_BM, 1.0)
    assert (hidden.mean(0) - 1 / 3).abs().max() < 4 * (2 / 9 / 3000) ** 0.5
    both = (hidden[:, :-1] * hidden[:, 1:]).mean()
    assert float(both) == pytest.approx(4 / 12 * 3 / 11, abs=0.01)


def test_a_share_of_the_hidden_patches_is_predicted() -> None:
    """Of 12 patches 8 are hidden; a quarter of these, any of them, are asked for, and none of the visible ones."""
    batch = batch_of((3, 2, 2), [3] * 500)
    whole, part = (draw_mask(batch, "random", 2 / 3, Draws(0, 0, range(500)), share) for share in (1.0, 0.25))
    assert torch.equal(whole.visible_BV, part.visible_BV) and part.masked_BM.shape == (500, 2)
    for all_of_them, some in zip(whole.masked_BM.tolist(), part.masked_BM.tolist(), strict=True):
        assert set(some) < set(all_of_them) and len(set(some)) == 2
    rank = (part.masked_BM[:, :1, None] == whole.masked_BM[:, None]).float().argmax(-1)
    assert len(rank.unique()) == 8  # not always the first of them


@pytest.mark.parametrize("shape", ["random", "tube", "block"])
def test_masks_differ_between_clips_and_follow_the_seed(shape: str) -> None:
    batch = batch_of((4, 4, 4), [4] * 8)
    first, again, other = (draw_mask(batch, shape, 0.5, Draws(seed, 0, range(8))).masked_BM for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(sorted(row.tolist())) for row in first}) > 1
