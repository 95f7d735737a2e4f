//! Cluster state to tables: sources, model, compile, apply, admin.
