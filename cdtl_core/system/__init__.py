"""Files, processes and terminals: durable writes, chained logs, isolation, text from outside."""
