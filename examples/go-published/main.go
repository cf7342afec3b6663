// Command go-published drives the service with Pidgr's published Go package, unmodified: binary protobuf by gRPC and by
// Connect. That package names some fields differently; on the wire only the numbers count.
//
// It is a module of its own, since two packages pidgr.v1 in one program collide.
//
// It reads APIKEYS_ENDPOINT (http://host:port) and APIKEYS_KEY (a key that may manage API keys).
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	pidgrv1 "github.com/pidgr/pidgr-proto/gen/go/pidgr/v1"
	"github.com/pidgr/pidgr-proto/gen/go/pidgr/v1/pidgrv1connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func main() {
	log.SetFlags(0)
	if err := overGRPC(); err != nil {
		log.Fatal("gRPC: ", err)
	}
	if err := overConnect(); err != nil {
		log.Fatal("Connect: ", err)
	}
	// As Pidgr's MCP server does: by HTTP/1.1 where the address is http.
	if err := overConnect(connect.WithGRPC()); err != nil {
		log.Fatal("gRPC by connect-go: ", err)
	}
}

func overGRPC() error {
	endpoint := strings.TrimPrefix(os.Getenv("APIKEYS_ENDPOINT"), "http://")
	connection, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	client := pidgrv1.NewApiKeyServiceClient(connection)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("APIKEYS_KEY"))

	created, err := client.CreateApiKey(ctx, &pidgrv1.CreateApiKeyRequest{
		Name:        "CI Integration",
		Permissions: []pidgrv1.Permission{pidgrv1.Permission_PERMISSION_CAMPAIGNS_READ},
	})
	if err != nil {
		return err
	}
	listed, err := client.ListApiKeys(ctx, &pidgrv1.ListApiKeysRequest{})
	if err != nil {
		return err
	}
	if err := check(created, listed); err != nil {
		return err
	}
	if _, err := client.RevokeApiKey(ctx, &pidgrv1.RevokeApiKeyRequest{ApiKeyId: created.ApiKey.Id}); err != nil {
		return err
	}
	asRevoked := metadata.AppendToOutgoingContext(context.Background(), "x-api-key", created.Key)
	if _, err := client.ListApiKeys(asRevoked, &pidgrv1.ListApiKeysRequest{}); status.Code(err) != codes.Unauthenticated {
		return fmt.Errorf("a revoked key was answered by %v", err)
	}
	fmt.Println("the published package works by gRPC")
	return nil
}

func overConnect(options ...connect.ClientOption) error {
	client := pidgrv1connect.NewApiKeyServiceClient(http.DefaultClient, os.Getenv("APIKEYS_ENDPOINT"), options...)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	create := connect.NewRequest(&pidgrv1.CreateApiKeyRequest{
		Name:        "CI Integration",
		Permissions: []pidgrv1.Permission{pidgrv1.Permission_PERMISSION_CAMPAIGNS_READ},
	})
	create.Header().Set("x-api-key", os.Getenv("APIKEYS_KEY"))
	created, err := client.CreateApiKey(ctx, create)
	if err != nil {
		return err
	}
	list := connect.NewRequest(&pidgrv1.ListApiKeysRequest{})
	list.Header().Set("x-api-key", os.Getenv("APIKEYS_KEY"))
	listed, err := client.ListApiKeys(ctx, list)
	if err != nil {
		return err
	}
	if err := check(created.Msg, listed.Msg); err != nil {
		return err
	}
	revoke := connect.NewRequest(&pidgrv1.RevokeApiKeyRequest{ApiKeyId: created.Msg.ApiKey.Id})
	revoke.Header().Set("x-api-key", os.Getenv("APIKEYS_KEY"))
	if _, err := client.RevokeApiKey(ctx, revoke); err != nil {
		return err
	}
	list = connect.NewRequest(&pidgrv1.ListApiKeysRequest{})
	list.Header().Set("x-api-key", created.Msg.Key)
	if _, err := client.ListApiKeys(ctx, list); connect.CodeOf(err) != connect.CodeUnauthenticated {
		return fmt.Errorf("a revoked key was answered by %v", err)
	}
	fmt.Println("the published package works by connect-go")
	return nil
}

func check(created *pidgrv1.CreateApiKeyResponse, listed *pidgrv1.ListApiKeysResponse) error {
	key := created.ApiKey
	if key.Name != "CI Integration" || !strings.HasPrefix(created.Key, key.KeyPrefix) || len(created.Key) != 54 {
		return fmt.Errorf("created %v", key)
	}
	if len(key.Permissions) != 1 || key.Permissions[0] != pidgrv1.Permission_PERMISSION_CAMPAIGNS_READ {
		return fmt.Errorf("created with permissions %v", key.Permissions)
	}
	if age := time.Since(key.CreatedAt.AsTime()); age < -time.Hour || age > time.Hour {
		return fmt.Errorf("created at %v", key.CreatedAt.AsTime())
	}
	if len(listed.ApiKeys) == 0 || listed.ApiKeys[0].Id != key.Id {
		return fmt.Errorf("the newest of %d keys is not the one that was created", len(listed.ApiKeys))
	}
	return nil
}
