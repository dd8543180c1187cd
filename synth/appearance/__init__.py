"""appearance: from a label map to an MRI-like image — contrast, partial volume, texture, bias field, noise, gamma."""
