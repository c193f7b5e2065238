"""What a worker measures.

A task is a function that prepares (makes the model, the data, the files) and returns a
function that measures once: a dict from a figure's name, with its unit, to a number.
Modules of frameworks are imported in functions, so that a worker loads only its own.
"""
