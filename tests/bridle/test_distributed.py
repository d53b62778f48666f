"""Two real processes: both hold the codebooks that one process with the joined batch would hold."""

from __future__ import annotations

import sys
from pathlib import Path

import forks
import pytest
import torch
from safetensors.torch import load_file

from bridle.quantize import ResidualQuantizer

# rank, world, folder, learn, first step, last step: trains on its share of each batch, from the state of a run before
RANK = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from bridle.distributed import gather_rows
from bridle.quantize import RandomProjection, ResidualQuantizer

rank, world, folder, learn, first, last = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:]
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{first}", rank=rank, world_size=world)
quantizer = ResidualQuantizer(3, 16, 6, learn=learn, decay=0.8, dead_below=0.5, seed=5).train()
if int(first):
    state = load_file(folder / f"{world}-{rank}-{first}.safetensors")
    quantizer.load_state_dict({name: state[name] for name in quantizer.state_dict()})
for step in range(int(first), int(last)):
    batch = torch.randn(100, 6, generator=torch.Generator().manual_seed(step))
    if step in (0, 3):  # one rank alone meets it; all must leave the step out, and none wait for the others
        batch[50, 2] = float("nan")
    bounds = (0, 37, 100) if world > 1 else (0, 100)  # ranks need not have equally many vectors
    quantizer(batch[bounds[rank]:bounds[rank + 1]])
    quantizer.update()
    quantizer(batch[:0] if rank else batch)  # a rank may have no vector at all
    quantizer.update()
    projection = RandomProjection(6, 4)
    projection.fit(gather_rows(batch[bounds[rank]:bounds[rank + 1]].nan_to_num()))
save_file(quantizer.state_dict() | projection.state_dict(), folder / f"{world}-{rank}-{last}.safetensors")
if world > 1:
    dist.barrier()
    dist.destroy_process_group()  # or the threads of gloo may abort the process at its end
"""


def train(folder: Path, world: int, learn: str, first: int, last: int) -> list[dict[str, torch.Tensor]]:
    """Runs all ranks; the state that each ends with."""
    arguments = [str(folder), learn, str(first), str(last)]
    ranks = [forks.Popen([sys.executable, "-c", RANK, str(r), str(world), *arguments]) for r in range(world)]
    assert [rank.wait() for rank in ranks] == [0] * world
    return [load_file(folder / f"{world}-{rank}-{last}.safetensors") for rank in range(world)]


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_two_ranks_hold_the_codebooks_of_the_joined_batch(tmp_path: Path, learn: str) -> None:
    (alone,) = train(tmp_path, 1, learn, 0, 8)
    first, second = train(tmp_path, 2, learn, 0, 8)
    for name in alone:
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].double(), alone[name].double(), atol=1e-5), name
    replaced = ResidualQuantizer(3, 16, 6, learn=learn, decay=0.8, dead_below=0.0, seed=5).train()  # type: ignore[arg-type]
    for step in range(8):
        for _ in range(2):
            replaced(torch.randn(100, 6, generator=torch.Generator().manual_seed(step)))
            replaced.update()
    assert not torch.allclose(replaced.codebook_QKC, alone["codebook_QKC"], atol=1e-3), "no code was replaced: no test"


def test_two_ranks_stay_equal_after_a_restart(tmp_path: Path) -> None:
    train(tmp_path, 2, "ema", 0, 4)
    resumed = train(tmp_path, 2, "ema", 4, 8)
    (tmp_path / "whole").mkdir()
    whole = train(tmp_path / "whole", 2, "ema", 0, 8)
    for state in (*resumed, *whole):
        assert all(torch.equal(state[name], whole[0][name]) for name in state)
