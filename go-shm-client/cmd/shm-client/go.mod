module go-shm-client/cmd/shm-client

go 1.26.0

require (
	go-shm-client v0.0.0
	go-shm-client/pictures v0.0.0
)

require (
	github.com/bep/imagemeta v1.0.1 // indirect
	golang.org/x/image v0.48.0 // indirect
	golang.org/x/text v0.44.0 // indirect
)

replace go-shm-client => ../../

replace go-shm-client/pictures => ../../pictures
