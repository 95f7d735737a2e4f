//! Stages over bursts, the worker loop and port I/O.
