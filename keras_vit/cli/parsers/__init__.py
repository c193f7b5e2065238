"""Parsers of the commands; they import none of the libraries."""
