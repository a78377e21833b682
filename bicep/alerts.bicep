// Alert rules and saved queries, from queries.json: the query of an alert finds rows only if there is something to look
// at. And an alert on the health check of the API. docs/operations.md tells what to do about each.

@description('Suffix of the resource names.')
param name string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('Resource id of the workspace.')
param workspaceId string

@description('Resource id of the API\'s site.')
param siteId string

@description('Address that alerts are mailed to. Empty: alerts show in the portal only.')
param email string

var content = loadJsonContent('queries.json')

resource workspace 'Microsoft.OperationalInsights/workspaces@2023-09-01' existing = {
  name: last(split(workspaceId, '/'))!
}

resource savedQueries 'Microsoft.OperationalInsights/workspaces/savedSearches@2023-09-01' = [
  for query in content.queries: {
    parent: workspace
    name: 'assistants-${query.name}'
    properties: {
      category: 'Assistants Service'
      displayName: query.title
      query: join(query.query, '\n')
    }
  }
]

resource people 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(email)) {
  name: 'ag-${name}'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'assistants'
    enabled: true
    emailReceivers: [{ name: 'mail', emailAddress: email, useCommonAlertSchema: true }]
  }
}

resource rules 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [
  for query in content.alerts: {
    name: 'alert-${query.name}-${name}'
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: query.title
      description: query.help
      severity: query.severity
      enabled: true
      scopes: [workspaceId]
      evaluationFrequency: query.every
      windowSize: query.window
      criteria: {
        allOf: [
          {
            query: join(query.query, '\n')
            timeAggregation: 'Count'
            operator: 'GreaterThan'
            threshold: 0
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      autoMitigate: true
      // The tables come to be with the first telemetry.
      skipQueryValidation: true
      actions: { actionGroups: empty(email) ? [] : [people.id] }
    }
  }
]

resource unhealthy 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: 'alert-health-${name}'
  location: 'global'
  tags: tags
  properties: {
    description: 'Instances of the API fail their health check: the store does not answer, or the process does not start.'
    severity: 1
    enabled: true
    scopes: [siteId]
    evaluationFrequency: 'PT1M'
    windowSize: 'PT5M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: 'health'
          criterionType: 'StaticThresholdCriterion'
          metricName: 'HealthCheckStatus'
          metricNamespace: 'Microsoft.Web/sites'
          operator: 'LessThan'
          threshold: 100
          timeAggregation: 'Average'
        }
      ]
    }
    autoMitigate: true
    actions: empty(email) ? [] : [{ actionGroupId: people.id }]
  }
}
