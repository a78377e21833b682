"""Infrastructure: implementations of the ports in core/ports. The only package that imports the libraries of Azure,
SQLite and model providers.
"""
