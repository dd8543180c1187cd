"""The stream by the name of the room that most of its users come from; it lives in :mod:`synth.stream`."""

from synth.stream import PATIENCE_S, Batch, Merged, Reader, Samples, Stream

__all__ = ["PATIENCE_S", "Batch", "Merged", "Reader", "Samples", "Stream"]
