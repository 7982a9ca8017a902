# What R's survival says of the cases in r_survival.csv: Rscript r_survival.R > r_survival.json
library(survival)
cases <- read.csv("r_survival.csv")
high <- cases$high_risk
time <- cases$time
event <- cases$event
number <- function(x) ifelse(is.na(x), "null", sprintf("%.15g", x))
say <- function(name, values) sprintf('  "%s": [%s]', name, paste(number(values), collapse = ", "))

harrell <- concordance(Surv(time, event) ~ risk + strata(fold), data = cases, reverse = TRUE)$concordance
# Without tied times: R counts a case censored at the time of a death as gone, milsurv and scikit-survival as there.
cases$untied <- cases$time + seq_len(nrow(cases)) / 1000
first <- subset(cases, fold == 0)
uno <- concordance(Surv(untied, event) ~ risk, data = first, reverse = TRUE, timewt = "n/G2", ymax = 12)$concordance
logrank <- survdiff(Surv(time, event) ~ high_risk + strata(fold), data = cases)
pooled <- survdiff(Surv(time, event) ~ high_risk, data = cases)
groups <- coxph(Surv(time, event) ~ high_risk + strata(fold), data = cases, ties = "efron")
cases$image <- ave(cases$risk, cases$fold, FUN = function(x) (x - mean(x)) / sqrt(mean((x - mean(x))^2)))
clinical <- coxph(Surv(time, event) ~ age + strata(fold), data = cases, ties = "efron")
both <- coxph(Surv(time, event) ~ age + image + strata(fold), data = cases, ties = "efron")
curves <- survfit(Surv(time, event) ~ high_risk, data = cases, conf.type = "log-log")
steps <- summary(curves, times = c(2, 5, 10), extend = TRUE)
medians <- summary(curves)$table

cat("{\n")
cat(sprintf('  "version": "survival %s on R %s",\n', packageVersion("survival"), getRversion()))
cat(paste(c(
  say("harrell_c_index", harrell),
  say("uno_c_index_of_fold_0_before_12", uno),
  say("log_rank_p_value_by_fold", pchisq(logrank$chisq, 1, lower.tail = FALSE)),
  say("log_rank_p_value_pooled", pchisq(pooled$chisq, 1, lower.tail = FALSE)),
  say("hazard_ratio_by_fold", exp(c(coef(groups), confint(groups)))),
  say("likelihood_ratio_statistic", 2 * (both$loglik[2] - clinical$loglik[2])),
  say("hazard_ratio_of_image", exp(c(coef(both)["image"], confint(both)["image", ]))),
  say("survival_at_2_5_10_low_then_high", steps$surv),
  say("lower_at_2_5_10_low_then_high", steps$lower),
  say("upper_at_2_5_10_low_then_high", steps$upper),
  say("median_low_then_high", medians[, "median"]),
  say("median_lower_low_then_high", medians[, "0.95LCL"]),
  say("median_upper_low_then_high", medians[, "0.95UCL"])
), collapse = ",\n"))
cat("\n}\n")
