"""Too little memory: one sentence that says what to lower."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from pretrain.options import TrainOptions
from synth.errors import UserError

SIGNS = ("can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is torch's, on a GPU or a CPU, or Python's for want of memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


def what_to_lower(options: TrainOptions) -> str:
    """What to change, the change that leaves the most as it was first."""
    from pretrain.objectives import find_objectives

    ways = []
    half, least = options.batch_size // 2, max(c.smallest_batch for c in find_objectives(options.objective).values())
    if half >= least:
        fewer = "" if least == 1 else f", though {options.objective} sees {half} at once"
        accumulate = options.accumulate * -(-options.batch_size // half)
        ways.append(f"--batch-size {half} --accumulate {accumulate} (as many volumes a step{fewer})")
    if options.backbone.startswith(("vit", "swin")) and "checkpointing=true" not in options.backbone:
        joint = "," if ":" in options.backbone else ":"
        ways.append(f"--backbone {options.backbone}{joint}checkpointing=true")
    if options.precision != "bf16":
        ways.append("--precision bf16")
    return " or ".join(ways) or "a smaller --backbone, or a corpus of smaller volumes"


@contextlib.contextmanager
def told_simply(options: TrainOptions, shape: Sequence[int], processes: int = 1) -> Iterator[None]:
    """Turn an error for want of memory into a UserError.

    Args:
        options: of the run.
        shape: ``[C, D, H, W]`` of a volume.
        processes: that share this machine.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        volumes = "×".join(map(str, shape[1:]))
        raise UserError(
            f"out of memory with {options.batch_size} volumes of {volumes} a batch for {options.backbone} in "
            f"{options.precision}{f', {processes} processes on this machine' if processes > 1 else ''}; take "
            f"{what_to_lower(options)}; brainloom pretrain plan measures before it starts"
        ) from error
