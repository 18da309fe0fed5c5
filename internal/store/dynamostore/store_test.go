package dynamostore_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"modulate/internal/emulator"
	"modulate/internal/store"
	"modulate/internal/store/dynamostore"
	"modulate/internal/store/storetest"
)

func TestMain(m *testing.M) { emulator.Main(m) }

// emulators are what the tests run over.
var emulators = map[string]func(testing.TB) string{
	"MiniStack": emulator.AWS, "DynamoDBLocal": emulator.DynamoDB,
}

// overEach runs a test over each emulator.
func overEach(t *testing.T, test func(t *testing.T, endpoint string)) {
	for name, endpoint := range emulators {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, endpoint(t))
		})
	}
}

var tables atomic.Int64

// open makes a table and returns the store in it.
func open(t *testing.T, endpoint string, options ...func(*dynamodb.Options)) *dynamostore.Store {
	t.Helper()
	cfg := emulator.Config(t, endpoint)
	table := fmt.Sprintf("modulate-%d", tables.Add(1))
	createTable(t, dynamodb.NewFromConfig(cfg), table)
	return dynamostore.New(dynamodb.NewFromConfig(cfg, options...), dynamostore.Config{Table: table, Retention: 30 * 24 * time.Hour})
}

// createTable makes a table by the schema of the package's comment, as the
// template does.
func createTable(t *testing.T, client *dynamodb.Client, table string) {
	t.Helper()
	keys := func(partition, sort string) []types.KeySchemaElement {
		return []types.KeySchemaElement{
			{AttributeName: &partition, KeyType: types.KeyTypeHash}, {AttributeName: &sort, KeyType: types.KeyTypeRange},
		}
	}
	in := &dynamodb.CreateTableInput{TableName: &table, BillingMode: types.BillingModePayPerRequest, KeySchema: keys("p", "i")}
	for name := range strings.SplitSeq("pidtlc", "") {
		in.AttributeDefinitions = append(in.AttributeDefinitions, types.AttributeDefinition{
			AttributeName: &name, AttributeType: types.ScalarAttributeTypeS,
		})
	}
	for name, schema := range map[string][]types.KeySchemaElement{"due": keys("d", "t"), "list": keys("l", "c")} {
		in.GlobalSecondaryIndexes = append(in.GlobalSecondaryIndexes, types.GlobalSecondaryIndex{
			IndexName: aws.String(name), KeySchema: schema,
			Projection: &types.Projection{ProjectionType: types.ProjectionTypeKeysOnly},
		})
	}
	if _, err := client.CreateTable(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := client.DeleteTable(context.Background(), &dynamodb.DeleteTableInput{TableName: &table}); err != nil {
			t.Error(err)
		}
	})
}

func TestStore(t *testing.T) {
	overEach(t, func(t *testing.T, endpoint string) {
		storetest.Run(t, func(t *testing.T) store.Store { return open(t, endpoint) })
	})
}
