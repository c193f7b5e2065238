"""Config families: one file for each paper or data set, with its configs in `CONFIGS`.

A family never imports another one, so a config can be read in a single file.
`keras_vit.training.config.load` finds a config by name in all of them.
"""
