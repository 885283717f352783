"""The checks of `doctor`, one module for each kind of finding."""
