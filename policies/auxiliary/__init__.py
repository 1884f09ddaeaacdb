"""What a policy may learn besides its actions, to see better; nothing of it runs at inference."""
