"""Who may do what: tenancy, access to images, revoked tokens and sign-in codes."""
