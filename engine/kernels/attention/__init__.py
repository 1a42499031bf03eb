"""Attention: on bytes, on floats, on AMX tiles, and for one query a sentence."""
