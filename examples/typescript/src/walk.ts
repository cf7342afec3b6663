// Create, list and revoke an API key, as the reference page of ApiKeyService shows it. The same code runs in Node and in a
// browser.
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";

import { BadRequestSchema, ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { ApiKeyService, type ApiKey } from "./gen/pidgr/v1/api_key_pb.js";

/** Puts the caller's key on each request: in a header, never in a URL. */
function credential(key: string): Interceptor {
  return (next) => (request) => {
    request.header.set("Authorization", `Bearer ${key}`);
    return next(request);
  };
}

/** Walks through the service by each protocol that a browser can speak; returns what it did, line by line. */
export async function walkAll(endpoint: string, key: string): Promise<string[]> {
  const options = { baseUrl: endpoint, interceptors: [credential(key)] };
  const transports: [string, Transport][] = [
    ["Connect with JSON", createConnectTransport(options)],
    ["Connect with protobuf", createConnectTransport({ ...options, useBinaryFormat: true })],
    ["gRPC-Web", createGrpcWebTransport(options)],
  ];
  const lines: string[] = [];
  for (const [name, transport] of transports) {
    await walk(transport);
    lines.push(`${name} works`);
  }
  return lines;
}

async function walk(transport: Transport): Promise<void> {
  const apiKeyClient = client(transport);

  const response = await apiKeyClient.createApiKey({ name: "CI Integration" });
  // Store response.rawKey securely — it won't be shown again.
  const apiKey = required(response.apiKey, "the created key");
  expect(response.rawKey.startsWith(apiKey.prefix), "the key starts with its prefix");

  const live = await find(apiKeyClient, apiKey.id);
  const createdAt = timestampDate(required(live.createdAt, "created_at"));
  expect(Math.abs(Date.now() - createdAt.getTime()) < 3_600_000, `created just now, not at ${createdAt.toISOString()}`);
  expect(live.lastUsedAt === undefined && live.expiresAt === undefined && live.revokedAt === undefined, "what did not happen is absent");

  await apiKeyClient.revokeApiKey({ id: apiKey.id });
  const revoked = await find(apiKeyClient, apiKey.id);
  expect(timestampDate(required(revoked.revokedAt, "revoked_at")) >= createdAt, "revoked after it was created");

  const refusal = await refused(() => apiKeyClient.createApiKey({ name: " " }));
  expect(refusal.code === Code.InvalidArgument, `refused as ${Code[refusal.code]}`);
  const [badRequest] = refusal.findDetails(BadRequestSchema);
  expect(badRequest?.fieldViolations[0]?.field === "name", "the error names the field");
  expect(refusal.findDetails(ErrorInfoSchema).length === 1, "the error has a stable reason");
}

/** Reads page after page until it meets the key. */
async function find(apiKeyClient: ReturnType<typeof client>, id: string): Promise<ApiKey> {
  let pageToken = "";
  do {
    const page = await apiKeyClient.listApiKeys({ pagination: { pageSize: 1, pageToken } });
    const found = page.apiKeys.find((key) => key.id === id);
    if (found) {
      return found;
    }
    pageToken = page.pagination?.nextPageToken ?? "";
  } while (pageToken !== "");
  throw new Error(`key ${id} is not listed`);
}

function client(transport: Transport) {
  return createClient(ApiKeyService, transport);
}

async function refused(call: () => Promise<unknown>): Promise<ConnectError> {
  try {
    await call();
  } catch (error) {
    return ConnectError.from(error);
  }
  throw new Error("the call was not refused");
}

function required<T>(value: T | undefined, what: string): T {
  if (value === undefined) {
    throw new Error(`${what} is missing`);
  }
  return value;
}

function expect(holds: boolean, what: string): void {
  if (!holds) {
    throw new Error(`expected: ${what}`);
  }
}
