"""Figures of the book: one house style, one function per kind of figure."""
