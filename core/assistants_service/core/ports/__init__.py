"""The ports of the domain, by purpose. infra implements them; there is no implementation here."""
