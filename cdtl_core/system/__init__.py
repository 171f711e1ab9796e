"""Files, processes and terminals: durable writes, chained logs, isolation, and safe handling of outside text."""
