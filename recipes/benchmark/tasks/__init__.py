"""Tasks that a worker can measure.

A task is a function that prepares a measurement (it builds the model, the data and the
files) and returns a function that measures once. That function returns a dict from the
name of each figure, with its unit, to a number. Frameworks are imported inside functions,
so that a worker loads only the one that it measures.
"""
