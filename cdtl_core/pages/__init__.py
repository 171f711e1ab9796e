"""Reports put together from what a run, a coordinator or a site has on disk, and served while a run goes on."""
