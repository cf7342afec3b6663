// Command connect creates, lists and revokes an API key by each protocol that connect-go speaks, over HTTP/1.1 and HTTP/2.
//
// It reads APIKEYS_ENDPOINT (http://host:port) and APIKEYS_KEY (a key that may manage API keys).
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	pidgrv1 "github.com/pidgr/api-keys/examples/go/gen/pidgr/v1"
	"github.com/pidgr/api-keys/examples/go/gen/pidgr/v1/pidgrv1connect"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

// credential puts the caller's key on each request.
func credential(key string) connect.Interceptor {
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
			request.Header().Set("Authorization", "Bearer "+key)
			return next(ctx, request)
		}
	})
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	for protocol, choice := range map[string][]connect.ClientOption{
		"Connect with protobuf": nil,
		"Connect with JSON":     {connect.WithProtoJSON()},
		"gRPC":                  {connect.WithGRPC()},
		"gRPC-Web":              {connect.WithGRPCWeb()},
	} {
		for version, transport := range map[string]http.RoundTripper{"HTTP/1.1": http.DefaultTransport, "HTTP/2": overHTTP2()} {
			options := append(choice, connect.WithInterceptors(credential(os.Getenv("APIKEYS_KEY"))))
			caller := &http.Client{Transport: transport}
			client := pidgrv1connect.NewApiKeyServiceClient(caller, os.Getenv("APIKEYS_ENDPOINT"), options...)
			if err := walk(ctx, client); err != nil {
				return fmt.Errorf("%s over %s: %w", protocol, version, err)
			}
			fmt.Println(protocol, "over", version, "works")
		}
	}
	return nil
}

// overHTTP2 speaks HTTP/2 without TLS, as within a private network.
func overHTTP2() http.RoundTripper {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: protocols}
}

func walk(ctx context.Context, client pidgrv1connect.ApiKeyServiceClient) error {
	created, err := client.CreateApiKey(ctx, connect.NewRequest(&pidgrv1.CreateApiKeyRequest{Name: "CI Integration"}))
	if err != nil {
		return err
	}
	// Store created.Msg.RawKey securely — it won't be shown again.
	id := created.Msg.ApiKey.Id

	listed, err := client.ListApiKeys(ctx, connect.NewRequest(&pidgrv1.ListApiKeysRequest{}))
	if err != nil {
		return err
	}
	if newest := listed.Msg.ApiKeys[0]; newest.Id != id || newest.RevokedAt != nil {
		return fmt.Errorf("the newest key is %v", newest)
	}

	if _, err := client.RevokeApiKey(ctx, connect.NewRequest(&pidgrv1.RevokeApiKeyRequest{Id: id})); err != nil {
		return err
	}

	_, err = client.RevokeApiKey(ctx, connect.NewRequest(&pidgrv1.RevokeApiKeyRequest{Id: "not an id"}))
	var refusal *connect.Error
	if !errors.As(err, &refusal) || refusal.Code() != connect.CodeInvalidArgument {
		return fmt.Errorf("an illegal id was answered by %v", err)
	}
	for _, detail := range refusal.Details() {
		value, err := detail.Value()
		if err != nil {
			return err
		}
		if badRequest, ok := value.(*errdetails.BadRequest); ok && badRequest.FieldViolations[0].Field == "id" {
			return nil
		}
	}
	return fmt.Errorf("the error does not name the field: %v", refusal)
}
