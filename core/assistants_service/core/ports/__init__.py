"""What the domain asks of the world, by what it is for. Engines in infra have these shapes; nothing here has one."""
