"""From files to chunks, in processes of their own: `pool` starts and ends them, `reader` is what runs in them."""
