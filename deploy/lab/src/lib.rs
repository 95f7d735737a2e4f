//! The namespaces of the demo and of the end-to-end tests.
