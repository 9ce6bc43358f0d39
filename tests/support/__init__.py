"""What the tests share: servers in processes of their own, clients, checkers."""
