module go-shm-client/pictures

go 1.26.0

require (
	github.com/bep/imagemeta v1.0.1
	go-shm-client v0.0.0
	golang.org/x/image v0.48.0
)

require golang.org/x/text v0.44.0 // indirect

replace go-shm-client => ../
