module go-shm-client

go 1.24
