"""Corpus → batches on the device: what generators that learn and pre-training are fed by."""

from synth.stream.merged import Merged
from synth.stream.stream import PATIENCE_S, Batch, Reader, Samples, Stream

__all__ = ["PATIENCE_S", "Batch", "Merged", "Reader", "Samples", "Stream"]
