module p2pchat

go 1.26
