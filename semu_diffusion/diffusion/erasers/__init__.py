"""Erasers other than SEMU that `semu erase --method` runs and ships, a file each; more join by an entry point."""

from .registry import GROUP, OWN, Eraser, eraser_of, known

__all__ = ["GROUP", "OWN", "Eraser", "eraser_of", "known"]
