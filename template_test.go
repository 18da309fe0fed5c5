package modulate_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"modulate/internal/api"
	"modulate/internal/local"
)

const (
	stageTemplate   = "template.yaml"
	machineTemplate = "infra/machine.yaml"
)

func TestTemplates(t *testing.T) {
	for _, name := range []string{stageTemplate, machineTemplate} {
		found, err := troubles(read(t, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, trouble := range found {
			t.Errorf("%s: %s", name, trouble)
		}
	}
}

// TestTemplatesBroken breaks a template in each way that TestTemplates is there
// to notice.
func TestTemplatesBroken(t *testing.T) {
	for _, c := range []struct{ file, old, with, want string }{
		{stageTemplate, "[sqs:GetQueueUrl, sqs:SendMessage]", "sqs:*", "sqs:* is allowed"},
		{stageTemplate, "Action: s3:PutObject", "Action: '*'", "* is allowed"},
		{stageTemplate, "Action: sqs:ListQueues", "Action: [sqs:ListQueues, sqs:SendMessage]", "sqs:SendMessage is allowed on *"},
		{stageTemplate, "AuthorizationType: !If [IsLocal, NONE, AWS_IAM]", "AuthorizationType: NONE", "HttpPost is open"},
		{stageTemplate, "AuthorizationType: !If [IsLocal, NONE, AWS_IAM]", "AuthorizationType: !If [IsRest, NONE, AWS_IAM]", "HttpPost is open"},
		{stageTemplate, "HttpMethod: GET\n      AuthorizationType: !If [IsLocal, NONE, AWS_IAM]", "HttpMethod: GET", "RestGet is open"},
		{stageTemplate, "!Equals [!Ref Local, 'true']", "!Equals [!Ref Gateway, http]", "IsLocal"},
		{stageTemplate, `127\.0\.0\.1`, `.*`, "AwsEndpointUrl"},
		{stageTemplate, "MODULATE_OWNER: !If [IsLocal, local,", "MODULATE_OWNER: !If [IsDeployed, local,", "MODULATE_OWNER"},
		{stageTemplate, "Principal: apigateway.amazonaws.com", "Principal: '*'", "RouterPermission lets * in"},
		{stageTemplate, "Type: Schedule", "Type: HttpApi", "SweeperFunction is opened by an event of type HttpApi"},
		{stageTemplate, "ThrottlingRateLimit: !Ref RateLimit", "DetailedMetricsEnabled: false", "HttpStage has no limit"},
		{stageTemplate, "Action: s3:*\n            Resource: [!GetAtt Bucket.Arn,", "Action: s3:GetObject\n            Resource: [!GetAtt Bucket.Arn,", "Bucket is not TLS-only"},
		{stageTemplate, "Resource: [!GetAtt Bucket.Arn,", "Resource: [", "Bucket is not TLS-only"},
		{stageTemplate, "BlockPublicPolicy: true", "BlockPublicPolicy: false", "Bucket may become public"},
		{stageTemplate, "SSEAlgorithm: AES256", "SSEAlgorithm: none", "Bucket is not encrypted"},
		{stageTemplate, "Prefix: log/, ExpirationInDays: 120", "Prefix: log/, ExpirationInDays: 119", "log/ for 119 days"},
		{stageTemplate, "Prefix: attempt/", "Prefix: attempts/", "attempt/ for ever"},
		{stageTemplate, "Prefix: out/", "Prefix: w", "what begins with w"},
		{stageTemplate, "{AttributeName: i, KeyType: RANGE}", "{AttributeName: id, KeyType: RANGE}", "Table has the keys p id, want p i"},
		{stageTemplate, "{AttributeName: t, KeyType: RANGE}", "{AttributeName: c, KeyType: RANGE}", "due has the keys d c, want d t"},
		{stageTemplate, "{AttributeName: x, Enabled: true}", "{AttributeName: ttl, Enabled: true}", "time to live"},
		{stageTemplate, "ProjectionType: KEYS_ONLY", "ProjectionType: ALL", "due holds more"},
		{stageTemplate, "PointInTimeRecoveryEnabled: true", "PointInTimeRecoveryEnabled: false", "point in time"},
		{stageTemplate, "LoggingConfig: {LogGroup: !Ref StatusLogs}", "Layers: []", "StatusFunction"},
		{stageTemplate, "-status\n      RetentionInDays: !Ref LogRetention", "-status", "StatusLogs is kept for ever"},
		{stageTemplate, "Condition: IsDeployed", "Condition: IsHttp", "SweepAlarm"},
		{stageTemplate, "Timeout: 28", "Timeout: 30", "RouterFunction"},
		{stageTemplate, "Outputs:\n", "Outputs:\n  Copy: &a {Value: x}\n  Other: *a\n", "alias"},
		{machineTemplate, "Queues: [!Ref DeadLetters]", "Queues: [!Ref Queue]", "DeadLetters is not TLS-only"},
		{machineTemplate, "aws:SecureTransport: 'false'", "aws:SecureTransport: 'true'", "Queue is not TLS-only"},
		{machineTemplate, "SqsManagedSseEnabled: true", "SqsManagedSseEnabled: false", "Queue is not encrypted"},
		{machineTemplate, "MessageRetentionPeriod: 604800", "MessageRetentionPeriod: 1209600", "DeadLetters"},
		{machineTemplate, "maxReceiveCount: 1000", "maxReceiveCount: 5", "after 5 receives"},
		{machineTemplate, "HttpTokens: required", "HttpTokens: optional", "IMDSv2"},
		{machineTemplate, "NewInstancesProtectedFromScaleIn: true", "NewInstancesProtectedFromScaleIn: false", "protected"},
		{machineTemplate, "AutoScalingGroup\n    Condition: HasFleet", "AutoScalingGroup", "Fleet is there on emulated AWS"},
		{machineTemplate, "HasFleet: !Equals [!Ref Local, 'false']", "HasFleet: !Equals [!Ref Local, 'true']", "HasFleet"},
		{machineTemplate, "  exit 1\n                fi\n", "  exit 1\n", "user data"},
		{machineTemplate, "sha256sum --check", "sha256sum", "its sha256"},
		{machineTemplate, "install -d --owner root --group root --mode 0755 /var/log/modulate", "LogsDirectory=modulate", "no directory for the log"},
		{machineTemplate, "/var/log/modulate\n                install", "/var/log/other\n                install", "no directory for the log"},
		{machineTemplate, "tar -xzf \"$archive\" --no-same-owner -C /etc/systemd/system workerd.service", "true", "no workerd.service"},
		{machineTemplate, "workerd modulate-keeper modulate", "workerd modulate", "no modulate-keeper"},
		{machineTemplate, "MODULATE_NOTICES=true", "MODULATE_NOTICE=true", "MODULATE_NOTICE is no variable"},
		{machineTemplate, `level = "bwrap"`, `level = "none"`, "no sandbox"},
		{machineTemplate, "need bwrap", "true bwrap", "does not see to bwrap"},
		{machineTemplate, "IF(FILL(hidden, 0) < slots, FILL(hidden, 0), slots)", "FILL(hidden, 0)", "no slot"},
		{machineTemplate, "FILL(instances, 0) * ${Slots}", "FILL(instances, 0) + ${Slots}", "no slot"},
		{machineTemplate, "dynamodb:PutItem, dynamodb:Query]", "dynamodb:PutItem]", "WorkerRole may not dynamodb:Query"},
		{machineTemplate, "dynamodb:PutItem, dynamodb:Query]", "dynamodb:PutItem, dynamodb:Query, dynamodb:UpdateItem]", "WorkerRole may dynamodb:UpdateItem"},
		{machineTemplate, "'dynamodb:LeadingKeys': ['#worker']", "'dynamodb:LeadingKeys': ['#worker', 'a']", "WorkerRole may dynamodb:DeleteItem"},
		{machineTemplate, "    autoscaling:ResourceTag/modulate-stage: !Ref Stage", "    autoscaling:ResourceTag/other: !Ref Stage", "WorkerRole may autoscaling:"},
		{stageTemplate, "Action: s3:PutObject\n                Resource: !Sub ${Bucket.Arn}/sha256/*", "Action: s3:PutObject\n                Resource: !Sub ${Bucket.Arn}/out/*", "RouterRole may s3:PutObject on Bucket/out/*"},
		{stageTemplate, "dynamodb:Scan, dynamodb:ConditionCheckItem]", "dynamodb:Query, dynamodb:Scan]", "RouterRole may not dynamodb:ConditionCheckItem on Table, which"},
		{stageTemplate, "dynamodb:Query, dynamodb:PutItem]", "dynamodb:Query, dynamodb:PutItem, dynamodb:UpdateItem]", "StatusRole may dynamodb:UpdateItem"},
		{stageTemplate, "[dynamodb:Query, dynamodb:GetItem, dynamodb:PutItem]", "[dynamodb:Query, dynamodb:GetItem, dynamodb:PutItem, dynamodb:BatchGetItem]", "SweeperRole may dynamodb:BatchGetItem"},
		{stageTemplate, "  SweeperRole:", "  OtherRole:", "OtherRole may"},
	} {
		text := read(t, c.file)
		if !strings.Contains(text, c.old) {
			t.Errorf("%s has no %q to break", c.file, c.old)
			continue
		}
		found, err := troubles(strings.Replace(text, c.old, c.with, 1))
		if err != nil {
			found = []string{err.Error()}
		}
		if !slices.ContainsFunc(found, func(s string) bool { return strings.Contains(s, c.want) }) {
			t.Errorf("%s with %q: found %q, want %q", c.file, c.with, found, c.want)
		}
	}
}

// TestMachineParameters holds the parameter files of machines against the
// template that they are for.
func TestMachineParameters(t *testing.T) {
	tmpl, err := parseTemplate(read(t, machineTemplate))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("infra/machines/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %q, %v; want cpu, gpu and gpu-a100 at least", files, err)
	}
	for _, file := range files {
		var given map[string]string
		if err := json.Unmarshal([]byte(read(t, file)), &given); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for name := range given {
			if at(tmpl, "Parameters", name) == nil {
				t.Errorf("%s: %s has no parameter %s", file, machineTemplate, name)
			}
		}
		if want := strings.TrimSuffix(filepath.Base(file), ".json"); given["Machine"] != want {
			t.Errorf("%s is for %q", file, given["Machine"])
		}
		if n := len(strings.Split(given["InstanceTypes"], ",")); n != 4 {
			t.Errorf("%s has %d instance types, want 4 (a - where there are fewer)", file, n)
		}
	}
}

// object is a mapping of a template. The short forms are written out: !Ref X is
// {Ref: X}, !Sub X is {Fn::Sub: X}.
type object = map[string]any

// troubles says what is wrong with a template.
func troubles(text string) ([]string, error) {
	tmpl, err := parseTemplate(text)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, check := range []func(object) []string{
		actions, openDoors, overTLS, buckets, lifecycle, queues, tables, logs, emulated, functionTimes, instances, backlog, roles,
	} {
		found = append(found, check(tmpl)...)
	}
	return found, nil
}

// wideActions are those that have no resource to name.
var wideActions = []string{"sqs:ListQueues"}

// actions looks at what policies allow.
func actions(tmpl object) (found []string) {
	walkObjects(tmpl, func(statement object) {
		if statement["Effect"] != "Allow" {
			return
		}
		for _, action := range list(statement["Action"]) {
			if strings.Contains(fmt.Sprint(action), "*") {
				found = append(found, fmt.Sprintf("%v is allowed", action))
			}
			if slices.Contains(list(statement["Resource"]), any("*")) && !slices.Contains(wideActions, fmt.Sprint(action)) {
				found = append(found, fmt.Sprintf("%v is allowed on *", action))
			}
		}
		if statement["NotAction"] != nil || statement["NotResource"] != nil {
			found = append(found, "a policy allows what it does not name")
		}
	})
	return found
}

// openDoors looks for a way in that asks nobody who he is, but for emulated
// AWS: that takes an endpoint which is a laptop's, so that functions opened on
// AWS by mistake reach nothing.
func openDoors(tmpl object) (found []string) {
	doors := 0
	for _, kind := range []string{"AWS::ApiGatewayV2::Route", "AWS::ApiGateway::Method"} {
		for name, r := range resources(tmpl, kind) {
			doors++
			byIdentity := object{"Fn::If": []any{"IsLocal", "NONE", "AWS_IAM"}}
			if kind := at(r, "AuthorizationType"); kind != "AWS_IAM" && !reflect.DeepEqual(kind, byIdentity) {
				found = append(found, fmt.Sprintf("%s is open", name))
			}
		}
	}
	for name, r := range resources(tmpl, "AWS::Lambda::Permission") {
		if who := at(r, "Principal"); who != "apigateway.amazonaws.com" || at(r, "SourceArn") == nil {
			found = append(found, fmt.Sprintf("%s lets %v in", name, who))
		}
	}
	for name, r := range resources(tmpl, "AWS::Serverless::Function") {
		for _, event := range objectOf(at(r, "Events")) {
			if kind := at(event, "Type"); kind != "Schedule" {
				found = append(found, fmt.Sprintf("%s is opened by an event of type %v", name, kind))
			}
		}
		if at(r, "FunctionUrlConfig") != nil {
			found = append(found, name+" has an address of its own")
		}
	}
	for _, kind := range []string{"AWS::ApiGatewayV2::Stage", "AWS::ApiGateway::Stage"} {
		for name, r := range resources(tmpl, kind) {
			limit := at(r, "DefaultRouteSettings", "ThrottlingRateLimit")
			for _, settings := range list(at(r, "MethodSettings")) {
				limit = at(settings, "ThrottlingRateLimit")
			}
			if limit == nil {
				found = append(found, name+" has no limit")
			}
		}
	}
	if doors == 0 {
		return found
	}
	if !reflect.DeepEqual(at(tmpl, "Conditions", "IsLocal"), object{"Fn::And": []any{
		object{"Fn::Equals": []any{object{"Ref": "Local"}, "true"}},
		object{"Fn::Not": []any{object{"Fn::Equals": []any{object{"Ref": "AwsEndpointUrl"}, ""}}}},
	}}) {
		found = append(found, "IsLocal is not Local with an AwsEndpointUrl")
	}
	if at(tmpl, "Parameters", "AwsEndpointUrl", "AllowedPattern") != `^(http://(127\.0\.0\.1|localhost|localhost\.localstack\.cloud):[0-9]+)?$` {
		found = append(found, "AwsEndpointUrl may be another's than a laptop's")
	}
	if owner := at(tmpl, "Globals", "Function", "Environment", "Variables", "MODULATE_OWNER"); !reflect.DeepEqual(owner,
		object{"Fn::If": []any{"IsLocal", "local", object{"Ref": "AWS::NoValue"}}}) {
		found = append(found, "MODULATE_OWNER is set for others than IsLocal")
	}
	return found
}

// overTLS wants a policy that refuses what does not come over TLS, for every
// queue and bucket.
func overTLS(tmpl object) (found []string) {
	refused := map[string]bool{} // by the Arn's attribute
	walkObjects(tmpl, func(s object) {
		if s["Effect"] == "Deny" && s["Principal"] == "*" && at(s, "Condition", "Bool", "aws:SecureTransport") == "false" &&
			(s["Action"] == "sqs:*" || s["Action"] == "s3:*") {
			for _, resource := range list(s["Resource"]) {
				refused[fmt.Sprint(resource)] = true
			}
		}
	})
	attached := map[string]bool{}
	for _, r := range resources(tmpl, "AWS::SQS::QueuePolicy") {
		for _, queue := range list(at(r, "Queues")) {
			attached[fmt.Sprint(at(queue, "Ref"))] = true
		}
	}
	for name := range resources(tmpl, "AWS::SQS::Queue") {
		if !attached[name] || !refused["map[Fn::GetAtt:"+name+".Arn]"] {
			found = append(found, name+" is not TLS-only")
		}
	}
	for _, r := range resources(tmpl, "AWS::S3::BucketPolicy") {
		attached[fmt.Sprint(at(r, "Bucket", "Ref"))] = true
	}
	for name := range resources(tmpl, "AWS::S3::Bucket") {
		if !attached[name] || !refused["map[Fn::GetAtt:"+name+".Arn]"] || !refused["map[Fn::Sub:${"+name+".Arn}/*]"] {
			found = append(found, name+" is not TLS-only")
		}
	}
	return found
}

func buckets(tmpl object) (found []string) {
	for name, r := range resources(tmpl, "AWS::S3::Bucket") {
		for _, block := range []string{"BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"} {
			if at(r, "PublicAccessBlockConfiguration", block) != true {
				found = append(found, name+" may become public")
			}
		}
		rules := list(at(r, "BucketEncryption", "ServerSideEncryptionConfiguration"))
		if len(rules) == 0 || at(rules[0], "ServerSideEncryptionByDefault", "SSEAlgorithm") != "AES256" {
			found = append(found, name+" is not encrypted")
		}
	}
	return found
}

// blobRoots are the roots of the keys in the comment of package blob.
func blobRoots() ([]string, error) {
	text, err := os.ReadFile("internal/blob/blob.go")
	var roots []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(\w+/)<`).FindAllStringSubmatch(string(text), -1) {
		roots = append(roots, m[1])
	}
	slices.Sort(roots)
	return slices.Compact(roots), err
}

// lifecycle wants blobs to outlive every promise that names them, and nothing
// else to be removed.
func lifecycle(tmpl object) (found []string) {
	want := int((2 * (api.MaxDeadline + local.Retention)).Hours() / 24)
	roots, err := blobRoots()
	if err != nil || len(roots) != 4 {
		return []string{fmt.Sprintf("the comment of package blob has the roots %q, %v; want 4", roots, err)}
	}
	for _, r := range resources(tmpl, "AWS::S3::Bucket") {
		days := map[string]int{}
		aborted := false
		for _, rule := range list(at(r, "LifecycleConfiguration", "Rules")) {
			aborted = aborted || at(rule, "AbortIncompleteMultipartUpload", "DaysAfterInitiation") != nil
			if n, ok := at(rule, "ExpirationInDays").(int); ok {
				days[fmt.Sprint(at(rule, "Prefix"))] = n
			}
		}
		if !aborted {
			found = append(found, "uploads that never end are kept for ever")
		}
		for prefix, n := range days {
			if !slices.Contains(roots, prefix) {
				found = append(found, "what begins with "+prefix+" is removed, and is no blob")
			} else if n < want {
				found = append(found, fmt.Sprintf("the bucket keeps %s for %d days, want %d", prefix, n, want))
			}
		}
		for _, root := range roots {
			if days[root] == 0 {
				found = append(found, "the bucket keeps "+root+" for ever")
			}
		}
	}
	return found
}

// queues wants dead letters, which keep the time at which they were first
// sent, to be kept for longer than the queue keeps a message.
func queues(tmpl object) (found []string) {
	const longest = 14 * 24 * time.Hour // a limit of SQS
	all := resources(tmpl, "AWS::SQS::Queue")
	for name, r := range all {
		if at(r, "SqsManagedSseEnabled") != true {
			found = append(found, name+" is not encrypted")
		}
		target, redrives := at(r, "RedrivePolicy", "deadLetterTargetArn", "Fn::GetAtt").(string)
		if !redrives {
			continue
		}
		if n := at(r, "RedrivePolicy", "maxReceiveCount"); n != 1000 {
			found = append(found, fmt.Sprintf("%s gives up after %v receives, want 1000", name, n))
		}
		dead := strings.TrimSuffix(target, ".Arn")
		kept, _ := at(all[dead], "MessageRetentionPeriod").(int)
		if mine, _ := at(r, "MessageRetentionPeriod").(int); mine == 0 || 2*mine > kept || kept != int(longest.Seconds()) {
			found = append(found, fmt.Sprintf("%s is kept for %d s and %s for %d s; want %.0f s and at most half of it", dead, kept, name, mine, longest.Seconds()))
		}
	}
	return found
}

// tables holds the table against the comment of package dynamostore.
func tables(tmpl object) (found []string) {
	comment, err := os.ReadFile("internal/store/dynamostore/doc.go")
	if err != nil {
		return []string{err.Error()}
	}
	table := regexp.MustCompile(`partition key is (\w+) \(string\), the sort key (\w+) \(string\)`).FindStringSubmatch(string(comment))
	ttl := regexp.MustCompile(`and (\w+) \(number, seconds since 1970\) is its\n// time-to-live`).FindStringSubmatch(string(comment))
	indexes := regexp.MustCompile(`(?m)^//\t(due|list)\s+(\w), (\w)\s`).FindAllStringSubmatch(string(comment), -1)
	if table == nil || ttl == nil || len(indexes) != 2 {
		return []string{"the comment of package dynamostore does not say the keys as this test reads them"}
	}
	for name, r := range resources(tmpl, "AWS::DynamoDB::Table") {
		kept := map[string]object{name: objectOf(r)}
		want := map[string]string{name: table[1] + " " + table[2]}
		for _, index := range list(at(r, "GlobalSecondaryIndexes")) {
			kept[fmt.Sprint(at(index, "IndexName"))] = objectOf(index)
			if at(index, "Projection", "ProjectionType") != "KEYS_ONLY" {
				found = append(found, fmt.Sprintf("the index %v holds more than keys", at(index, "IndexName")))
			}
		}
		for _, index := range indexes {
			want[index[1]] = index[2] + " " + index[3]
		}
		for part := range maps.Keys(want) {
			if got := keys(kept[part]); got != want[part] {
				found = append(found, fmt.Sprintf("%s has the keys %s, want %s", part, got, want[part]))
			}
		}
		if at(r, "TimeToLiveSpecification", "AttributeName") != ttl[1] {
			found = append(found, "the attribute of time to live is not "+ttl[1])
		}
		if at(r, "PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled") != true || at(r, "BillingMode") != "PAY_PER_REQUEST" {
			found = append(found, name+" is not on demand, or cannot go back to a point in time")
		}
	}
	return found
}

// keys are the partition key and the sort key of a table or an index.
func keys(r object) string {
	var names []string
	for _, key := range list(r["KeySchema"]) {
		names = append(names, fmt.Sprint(at(key, "AttributeName")))
	}
	return strings.Join(names, " ")
}

func logs(tmpl object) (found []string) {
	groups := resources(tmpl, "AWS::Logs::LogGroup")
	for name, r := range groups {
		if at(r, "RetentionInDays") == nil {
			found = append(found, name+" is kept for ever")
		}
	}
	for name, r := range resources(tmpl, "AWS::Serverless::Function") {
		if group, _ := at(r, "LoggingConfig", "LogGroup", "Ref").(string); groups[group] == nil {
			found = append(found, name+" writes its log to no group of the template")
		}
	}
	return found
}

// emulated wants nothing on emulated AWS that costs or alarms.
func emulated(tmpl object) (found []string) {
	for _, kind := range []string{"AWS::CloudWatch::Alarm", "AWS::AutoScaling::AutoScalingGroup", "AWS::EC2::LaunchTemplate"} {
		for name := range resources(tmpl, kind) {
			if c := at(tmpl, "Resources", name, "Condition"); c != "IsDeployed" && c != "HasFleet" {
				found = append(found, name+" is there on emulated AWS")
			}
		}
	}
	if c := at(tmpl, "Conditions", "HasFleet"); c != nil && !reflect.DeepEqual(c, object{"Fn::Equals": []any{object{"Ref": "Local"}, "false"}}) {
		found = append(found, "HasFleet is not the opposite of Local")
	}
	return found
}

// functionTimes wants answers before the gateways give up (29 s for a REST API,
// 30 s for an HTTP API), and a sweep of a minute that may last a little longer.
func functionTimes(tmpl object) (found []string) {
	for name, r := range resources(tmpl, "AWS::Serverless::Function") {
		seconds, _ := at(r, "Timeout").(int)
		events := objectOf(at(r, "Events"))
		switch {
		case len(events) == 0 && (seconds == 0 || seconds > 28):
			found = append(found, fmt.Sprintf("%s may take %d s, want 28 at most", name, seconds))
		case len(events) > 0 && seconds != 75:
			found = append(found, fmt.Sprintf("%s may take %d s, want 75", name, seconds))
		}
		for _, event := range events {
			if at(event, "Type") == "Schedule" && at(event, "Properties", "Schedule") != "rate(1 minute)" {
				found = append(found, name+" does not run each minute")
			}
		}
	}
	return found
}

func instances(tmpl object) (found []string) {
	for name, r := range resources(tmpl, "AWS::EC2::LaunchTemplate") {
		if at(r, "LaunchTemplateData", "MetadataOptions", "HttpTokens") != "required" {
			found = append(found, name+" does without IMDSv2")
		}
		parts := list(at(r, "LaunchTemplateData", "UserData", "Fn::Base64", "Fn::Sub"))
		script, _ := parts[0].(string)
		script = regexp.MustCompile(`\$\{[\w:.]+\}`).ReplaceAllString(script, "a-value")
		bash := exec.Command("bash", "-n")
		bash.Stdin = strings.NewReader(script)
		if out, err := bash.CombinedOutput(); err != nil {
			found = append(found, fmt.Sprintf("the user data of %s is no script: %v, %s", name, err, out))
		}
		if !strings.Contains(script, "| sha256sum --check") {
			found = append(found, name+" does not hold workerd against its sha256")
		}
		for _, trouble := range installs(script) {
			found = append(found, name+trouble)
		}
	}
	for name, r := range resources(tmpl, "AWS::AutoScaling::AutoScalingGroup") {
		if at(r, "NewInstancesProtectedFromScaleIn") != true {
			found = append(found, "new instances of "+name+" are not protected from scale-in")
		}
	}
	return found
}

// installs says what a script that installs workerd as a service lacks.
func installs(script string) (found []string) {
	before, _, _ := strings.Cut(script, "systemctl enable --now workerd")
	for _, m := range regexp.MustCompile(`(?m)^Standard\w+=append:(/\S+)/`).FindAllStringSubmatch(unitFile(), -1) {
		if !regexp.MustCompile(`(?m)^install -d --owner root .*` + m[1] + `$`).MatchString(before) {
			found = append(found, " starts workerd with no directory for the log: systemd makes none in time")
		}
	}
	for _, name := range []string{"workerd", "modulate-keeper", "modulate", "workerd.service"} {
		if !regexp.MustCompile(`(?m)^tar -xzf "\$archive" .* ` + regexp.QuoteMeta(name) + `( |$)`).MatchString(before) {
			found = append(found, " installs no "+name)
		}
	}
	for _, program := range []string{"bwrap", "nft", "setpriv"} {
		if !regexp.MustCompile(`(?m)^need ` + program + ` `).MatchString(before) {
			found = append(found, " does not see to "+program)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^(MODULATE_\w+)=`).FindAllStringSubmatch(before, -1) {
		flag := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(m[1], "MODULATE_"), "_", "-"))
		if !regexp.MustCompile(`Var(P?)\(&c\.\w+, "` + flag + `"`).Match(workerdFlags()) {
			found = append(found, ": "+m[1]+" is no variable of workerd")
		}
	}
	if !strings.Contains(before, `level = "bwrap"`) {
		found = append(found, " runs scripts in no sandbox")
	}
	return found
}

// unitFile and workerdFlags are what user data must fit; a test that names them
// fails when they are not there.
func unitFile() string     { text, _ := os.ReadFile("infra/workerd.service"); return string(text) }
func workerdFlags() []byte { text, _ := os.ReadFile("workerd/config.go"); return text }

// TestUnit holds the unit of systemd to what scripts that outlive the daemon
// need, and to what bubblewrap needs.
func TestUnit(t *testing.T) {
	unit := unitFile()
	for _, line := range []string{"Restart=always", "KillMode=process", "OOMPolicy=continue", "ExecReload=/bin/kill -HUP $MAINPID", "NoNewPrivileges=yes"} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit has no %s", line)
		}
	}
	broken := regexp.MustCompile(`(?m)^(PrivateTmp|PrivateDevices|PrivateUsers|PrivateMounts|PrivateNetwork|ProtectHostname|ProtectProc|ProcSubset|` +
		`ProtectKernelTunables|ProtectControlGroups|ProtectClock|ProtectHome|DevicePolicy|DeviceAllow|RestrictNamespaces|SystemCallFilter|` +
		`RestrictAddressFamilies|MemoryDenyWriteExecute|CapabilityBoundingSet|User|DynamicUser)=`)
	for _, m := range broken.FindAllStringSubmatch(unit, -1) {
		t.Errorf("%s breaks the sandbox, its devices, or scripts that outlive the daemon", m[1])
	}
	seconds := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindStringSubmatch(unit)
	drain := regexp.MustCompile(`(?m)^ *MODULATE_DRAIN=(\w+)$`).FindStringSubmatch(read(t, machineTemplate))
	if seconds == nil || drain == nil {
		t.Fatal("the unit bounds no stop, or the user data no drain")
	}
	stop, err := time.ParseDuration(seconds[1] + "s")
	if err != nil {
		t.Fatal(err)
	}
	if d, err := time.ParseDuration(drain[1]); err != nil || stop < d+25*time.Second {
		t.Errorf("it is killed %v after it was told to stop: a drain of %s (%v), grace and settling take 25 s more", stop, drain[1], err)
	}
}

// backlog wants what is hidden to count for no more than there are slots, for
// nothing ends the instances that are too many.
func backlog(tmpl object) (found []string) {
	for name, r := range resources(tmpl, "AWS::CloudWatch::Alarm") {
		expressions := map[string]any{}
		for _, metric := range list(at(r, "Metrics")) {
			expressions[fmt.Sprint(at(metric, "Id"))] = at(metric, "Expression")
		}
		if expressions["missing"] == nil {
			continue
		}
		for id, want := range map[string]any{
			"missing": object{"Fn::Sub": "CEIL((FILL(waiting, 0) + running) / ${Slots}) - FILL(instances, 0)"},
			"running": "IF(FILL(hidden, 0) < slots, FILL(hidden, 0), slots)",
			"slots":   object{"Fn::Sub": "FILL(instances, 0) * ${Slots}"},
		} {
			if !reflect.DeepEqual(expressions[id], want) {
				found = append(found, fmt.Sprintf("%s takes for %s %v, want %v: what is hidden may hold no slot", name, id, expressions[id], want))
			}
		}
	}
	return found
}

// parseTemplate reads a template. CloudFormation takes no aliases.
func parseTemplate(text string) (object, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return nil, err
	}
	value, err := valueOf(doc.Content[0])
	return objectOf(value), err
}

// valueOf is the node as maps, lists and scalars, its short form written out.
func valueOf(n *yaml.Node) (value any, err error) {
	switch n.Kind {
	case yaml.AliasNode:
		return nil, errors.New("an alias, which CloudFormation does not take")
	case yaml.MappingNode:
		m := object{}
		for i := 0; i < len(n.Content); i += 2 {
			if m[n.Content[i].Value], err = valueOf(n.Content[i+1]); err != nil {
				return nil, err
			}
		}
		value = m
	case yaml.SequenceNode:
		l := []any{}
		for _, c := range n.Content {
			v, err := valueOf(c)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		value = l
	default:
		if strings.HasPrefix(n.Tag, "!!") {
			return value, n.Decode(&value)
		}
		value = n.Value
	}
	switch name, short := strings.CutPrefix(n.Tag, "!"); {
	case !short || strings.HasPrefix(n.Tag, "!!"):
		return value, nil
	case name == "Ref" || name == "Condition":
		return object{name: value}, nil
	default:
		return object{"Fn::" + name: value}, nil
	}
}

// at follows a path of keys, or is nil.
func at(v any, keys ...string) any {
	for _, key := range keys {
		v = objectOf(v)[key]
	}
	return v
}

func objectOf(v any) object {
	m, _ := v.(object)
	return m
}

// list is v if it is a list, else v alone, else nothing.
func list(v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	default:
		return []any{v}
	}
}

// resources are the properties of the resources of that type, by their names.
func resources(tmpl object, kind string) map[string]object {
	found := map[string]object{}
	for name, r := range objectOf(tmpl["Resources"]) {
		if at(r, "Type") == kind {
			found[name] = objectOf(at(r, "Properties"))
		}
	}
	return found
}

// walkObjects calls f for every object of v.
func walkObjects(v any, f func(object)) {
	switch v := v.(type) {
	case object:
		f(v)
		for _, c := range v {
			walkObjects(c, f)
		}
	case []any:
		for _, c := range v {
			walkObjects(c, f)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
