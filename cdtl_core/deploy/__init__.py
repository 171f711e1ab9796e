"""Services of a coordinator and of a site: gateway, egress filter, node, and the processes behind them."""
