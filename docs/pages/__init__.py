"""Writes the tables, pictures and evidence of the documentation from the CSV beside it.

`make results` runs it; a test checks that nothing it would write differs from what is there.
"""
