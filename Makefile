# Apus. `make run` and `make test` are all a newcomer needs; README.md explains the rest.

# One optimised build for product and tests alike (preconditions stay on), so that neither
# undoes the other's work and byte loops run at full speed under test.
SWIFT_FLAGS := -c release -Xswiftc -enable-testing

.PHONY: build
build:
	swift build $(SWIFT_FLAGS) --product apus

# The Swift of the protobuf messages is committed; run this after changing a .proto.
.PHONY: proto
proto:
	protoc -I Sources/Wire/proto --swift_opt=Visibility=Public \
		--swift_out=Sources/Wire/Generated Sources/Wire/proto/*.proto
