// Command grpc creates, lists and revokes an API key by gRPC, as the reference page of ApiKeyService shows it.
//
// It reads APIKEYS_ENDPOINT (host:port, without TLS) and APIKEYS_KEY (a key that may manage API keys).
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pidgrv1 "github.com/pidgr/api-keys/examples/go/gen/pidgr/v1"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	endpoint := strings.TrimPrefix(os.Getenv("APIKEYS_ENDPOINT"), "http://")
	connection, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	apiKeyClient := pidgrv1.NewApiKeyServiceClient(connection)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("APIKEYS_KEY"))

	resp, err := apiKeyClient.CreateApiKey(ctx, &pidgrv1.CreateApiKeyRequest{
		Name: "CI Integration",
	})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	// Store resp.RawKey securely — it won't be shown again.
	if !strings.HasPrefix(resp.RawKey, resp.ApiKey.Prefix) {
		return fmt.Errorf("the key does not start with its prefix %s", resp.ApiKey.Prefix)
	}
	id := resp.ApiKey.Id
	fmt.Println("created", id, resp.ApiKey.Prefix)

	if _, err := apiKeyClient.RevokeApiKey(ctx, &pidgrv1.RevokeApiKeyRequest{Id: id}); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	fmt.Println("revoked", id)

	revoked, err := find(ctx, apiKeyClient, id)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if revoked.RevokedAt == nil || revoked.LastUsedAt != nil {
		return fmt.Errorf("listed as %v", revoked)
	}
	fmt.Println("listed as revoked at", revoked.RevokedAt.AsTime().Format(time.RFC3339))

	return explainRefusal(ctx, apiKeyClient)
}

// find reads page after page until it meets the key.
func find(ctx context.Context, client pidgrv1.ApiKeyServiceClient, id string) (*pidgrv1.ApiKey, error) {
	request := &pidgrv1.ListApiKeysRequest{Pagination: &pidgrv1.Pagination{PageSize: 1}}
	for {
		page, err := client.ListApiKeys(ctx, request)
		if err != nil {
			return nil, err
		}
		for _, key := range page.ApiKeys {
			if key.Id == id {
				return key, nil
			}
		}
		request.Pagination.PageToken = page.Pagination.NextPageToken
		if request.Pagination.PageToken == "" {
			return nil, fmt.Errorf("key %s is not among %d keys", id, page.Pagination.TotalCount)
		}
	}
}

// explainRefusal sends a request that must be refused, and reads the typed details of the error.
func explainRefusal(ctx context.Context, client pidgrv1.ApiKeyServiceClient) error {
	_, err := client.CreateApiKey(ctx, &pidgrv1.CreateApiKeyRequest{Name: " "})
	refusal := status.Convert(err)
	if refusal.Code() != codes.InvalidArgument {
		return fmt.Errorf("a blank name was answered by %v", err)
	}
	for _, detail := range refusal.Details() {
		if badRequest, ok := detail.(*errdetails.BadRequest); ok {
			for _, violation := range badRequest.FieldViolations {
				fmt.Println("refused:", violation.Field, violation.Description)
			}
			return nil
		}
	}
	return fmt.Errorf("no field is named in %v", refusal.Details())
}
