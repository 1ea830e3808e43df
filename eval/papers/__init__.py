"""The tables of the papers on Stable Diffusion: from a model's name to the table, by one command each."""
