"""synth: makes synthetic brain MRI (label-map synthesis, latent diffusion, plug-ins) into sharded Zarr corpora."""
