"""What the tests build on: gateways, servers, clients, worlds of users, and contracts that adapters keep."""
